package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spawnwire/spawnwire/forkspawn"
)

// entry is the name under which the parent asks for hashFiles.
const entry = "hash"

// What parent and worker say to each other. Paths are bytes, because a file's name need not be UTF-8, as
// a string in a message has to be.
type (
	// orders come with the worker's spec.
	orders struct {
		Dir        []byte
		CrashAfter int // files after which the worker kills itself; 0 is never
	}
	// request is for one file.
	request struct {
		Path []byte // relative to Dir
	}
	// answer is the file's sum or, unless it is "", the reason why there is none.
	answer struct {
		Sum [sha256.Size]byte
		Err string
	}
)

// hashFiles is the life of a worker. It ends when the parent asks it to stop, or is gone.
func hashFiles(ctx context.Context, parent *forkspawn.Parent) error {
	var o orders
	if err := parent.Spec.DecodeArgs(&o); err != nil {
		return err
	}
	h := hasher{hash: sha256.New(), buf: make([]byte, 256<<10)}
	for n := 0; ; n++ {
		var r request
		if err := parent.Recv(ctx, &r); err != nil {
			return err // for Init this is success if the parent asked for it
		}
		if o.CrashAfter > 0 && n == o.CrashAfter {
			crash()
		}
		var a answer
		if err := h.sum(filepath.Join(string(o.Dir), string(r.Path)), &a.Sum); err != nil {
			a.Err = reason(err).Error()
		}
		if err := parent.Send(ctx, a); err != nil {
			return err
		}
	}
}

// hasher hashes one file after the other with the same memory.
type hasher struct {
	hash hash.Hash
	buf  []byte
}

func (h *hasher) sum(path string, sum *[sha256.Size]byte) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	h.hash.Reset()
	// Nothing but a Reader, for CopyBuffer would call WriteTo of the File and leave buf alone.
	if _, err := io.CopyBuffer(h.hash, struct{ io.Reader }{f}, h.buf); err != nil {
		return err
	}
	h.hash.Sum(sum[:0])
	return nil
}

// reason is what the system said, without the path, which stands in front of it already.
func reason(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}

// crash ends this process as the kernel would for want of memory.
func crash() {
	if self, err := os.FindProcess(os.Getpid()); err == nil {
		self.Kill()
	}
	select {} // the signal is on its way
}
