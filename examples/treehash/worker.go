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

// entry is the name of hashFiles in the spec of a worker.
const entry = "hash"

// sentSize is the longest part of a file in one message, in bytes.
const sentSize = 256 << 10

// Paths are []byte, because a string in a message must be UTF-8 and the name of
// a file need not be.
type (
	// workerArgs are the arguments in the spec of a worker.
	workerArgs struct {
		Dir        []byte
		CrashAfter int // files after which the worker kills itself; 0 is never
	}
	// request asks for the sum of one file.
	request struct {
		Path []byte // relative to Dir
		Sent bool   // the content follows in raw messages, and an empty one at its end
	}
	// answer has the sum of a file, or in Err the reason why there is none.
	answer struct {
		Sum [sha256.Size]byte
		Err string
	}
)

// hashFiles is the entry of a worker. It runs until the parent asks it to stop
// or has died.
func hashFiles(ctx context.Context, parent *forkspawn.Parent) error {
	var args workerArgs
	if err := parent.Spec().DecodeArgs(&args); err != nil {
		return err
	}
	h := hasher{hash: sha256.New(), buf: make([]byte, sentSize)}
	for n := 0; ; n++ {
		var r request
		if err := parent.Recv(ctx, &r); err != nil {
			return err // Init exits with 0 if the parent has asked for the stop
		}
		if args.CrashAfter > 0 && n == args.CrashAfter {
			crash()
		}
		var a answer
		path := filepath.Join(string(args.Dir), string(r.Path))
		if r.Sent {
			if err := h.sumOfSent(ctx, parent, &a.Sum); err != nil {
				return err
			}
		} else if err := h.sum(path, &a.Sum); err != nil {
			a.Err = reason(err).Error()
		}
		if err := parent.Send(ctx, a); err != nil {
			return err
		}
	}
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

// sumOfSent hashes raw messages up to an empty one.
func (h *hasher) sumOfSent(
	ctx context.Context, parent *forkspawn.Parent, sum *[sha256.Size]byte,
) error {
	h.hash.Reset()
	for {
		n, err := parent.RecvBytes(ctx, h.buf)
		if err != nil {
			return err
		}
		if n == 0 {
			h.hash.Sum(sum[:0])
			return nil
		}
		h.hash.Write(h.buf[:n])
	}
}

// reason removes the path from an error of package os, because the caller prints
// the path itself.
func reason(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
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
