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

	"github.com/spawnwire/spawnwire/call"
	"github.com/spawnwire/spawnwire/forkspawn"
)

// entry is the name of hashFiles in the spec of a worker.
const entry = "hash"

// sentSize is the longest part of a file that is read or sent at a time, in bytes.
const sentSize = 256 << 10

// Paths are []byte, because a string in a message must be UTF-8 and the name of
// a file need not be.
type (
	// workerArgs are the arguments in the spec of a worker.
	workerArgs struct {
		Dir        []byte
		Afar       bool // the files are on the parent's machine
		CrashAfter int  // files after which the worker kills itself; 0 is never
	}
	// request names a file, relative to Dir.
	request struct{ Path []byte }
	// answer has the sum of a file, or in Err the reason why there is none.
	answer struct {
		Sum [sha256.Size]byte
		Err string
	}
)

// The parent calls sumOf. A worker on another machine calls contentOf meanwhile.
var (
	sumOf     = call.NewUnary[request, answer]("sum")
	contentOf = call.NewServerStream[request, []byte]("content")
)

// hashFiles is the entry of a worker. It runs until the parent asks it to stop
// or has died.
func hashFiles(ctx context.Context, parent *forkspawn.Parent) error {
	var args workerArgs
	if err := parent.Spec().DecodeArgs(&args); err != nil {
		return err
	}
	h := hasher{hash: sha256.New(), buf: make([]byte, sentSize)}
	files := 0
	mux := call.NewMux()
	// The parent calls for one file at a time.
	sumOf.Handle(mux, func(ctx context.Context, r request) (a answer, err error) {
		if args.CrashAfter > 0 && files == args.CrashAfter {
			crash()
		}
		files++
		if args.Afar {
			err = h.sumAfar(ctx, r, &a.Sum)
		} else {
			err = h.sum(filepath.Join(string(args.Dir), string(r.Path)), &a.Sum)
		}
		if err != nil {
			a.Err = reason(err).Error()
		}
		return a, nil
	})
	return call.Serve(ctx, parent, mux) // Init exits with 0 if the parent has asked for the stop
}

// hasher hashes files one after the other and reuses its buffer.
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
	// The struct hides File.WriteTo, because CopyBuffer would call it and not
	// use buf.
	if _, err := io.CopyBuffer(h.hash, struct{ io.Reader }{f}, h.buf); err != nil {
		return err
	}
	h.hash.Sum(sum[:0])
	return nil
}

// sumAfar gets the file from the parent.
func (h *hasher) sumAfar(ctx context.Context, r request, sum *[sha256.Size]byte) error {
	h.hash.Reset()
	for part, err := range contentOf.Call(ctx, call.ConnOf(ctx), r) {
		if err != nil {
			return err
		}
		h.hash.Write(part)
	}
	h.hash.Sum(sum[:0])
	return nil
}

// reason removes the path from an error of package os, and the method from that of a
// call. The caller prints the path itself.
func reason(err error) error {
	var path *fs.PathError
	var failed *call.Error
	switch {
	case errors.As(err, &path):
		return path.Err
	case errors.As(err, &failed):
		return errors.New(failed.Text)
	}
	return err
}

// crash kills this process with SIGKILL, as the kernel does when it is out of
// memory.
func crash() {
	if self, err := os.FindProcess(os.Getpid()); err == nil {
		self.Kill()
	}
	select {} // until the signal arrives
}
