// Package blob shares large constant data between processes without copies: a model, a
// table, an index.
//
//	table, err := blob.Build("table", size, func(b []byte) error { ... })
//	cmd := forkspawn.Command{Files: map[string]*os.File{"table": table.File()}}
//
// and in each child
//
//	file, err := parent.File("table")
//	table, err := blob.Open(file)
//	use(table.Bytes())
//
// All processes use the same memory, whether they were executed or forked. The bytes are
// sealed before anybody else gets them: nobody can write to them, or make the file
// shorter, which would kill its readers with SIGBUS. The memory is free again when the last
// process has closed the Blob or has ended, however it ended. It has no name in a file
// system.
//
// [Send] and [Receive] pass a Blob over a connection later, for example one of
// forkspawn.Child.Open. A program in another language maps the descriptor (mmap(2)).
//
// # Platforms
//
// On Linux a Blob is a sealed memfd (memfd_create(2)). Other Unix systems have no seals:
// there it is an unlinked file without a writable descriptor, in the temporary directory.
// On Windows all functions return an error that matches errors.ErrUnsupported.
package blob

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
)

// ErrNotSealed is the error of [Open] and [Receive] for a file whose bytes can still
// change.
var ErrNotSealed = errors.New("the file is not sealed: somebody can still change it")

// Blob is constant bytes in shared memory. Its methods may be called concurrently, but
// the bytes must not be used during and after Close.
type Blob struct {
	file  *os.File
	bytes []byte // mapped; nil if there are none
	close sync.Once
}

// Build makes a Blob of size bytes, which are 0 until fill writes them. fill must not keep
// the slice. If fill fails, Build returns the error of fill, and nothing is left.
//
// name is for people, in the maps of a process (proc(5)); it need not be unique. A lack of
// memory is an error that matches syscall.ENOSPC or syscall.ENOMEM.
func Build(name string, size int, fill func([]byte) error) (*Blob, error) {
	return finish(name, func(f *os.File) error { return write(f, size, fill) })
}

// From makes a Blob of all that it reads from r. The other rules are those of [Build].
func From(name string, r io.Reader) (*Blob, error) {
	return finish(name, func(f *os.File) error {
		_, err := io.Copy(f, r)
		return err
	})
}

// finish makes a file, lets fill write it, and seals it.
func finish(name string, fill func(*os.File) error) (_ *Blob, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("blob: build %q: %w", name, err)
		}
	}()
	f, err := create(name)
	if err != nil {
		return nil, err
	}
	written := false
	defer func() {
		if !written { // also when fill panics
			discard(f)
		}
	}()
	if err := fill(f); err != nil {
		return nil, err
	}
	written = true
	if f, err = seal(f); err != nil {
		return nil, err
	}
	return mapped(f)
}

// Open opens the Blob in a file that another process has given, such as the file of
// forkspawn.Parent.File. file remains the caller's, who may close it. If the bytes could
// still change, the error matches [ErrNotSealed].
func Open(file *os.File) (*Blob, error) {
	b, err := open(file)
	if err != nil {
		return nil, fmt.Errorf("blob: open %q: %w", file.Name(), err)
	}
	return b, nil
}

// mapped returns the Blob in a sealed file, which it takes over.
func mapped(f *os.File) (*Blob, error) {
	b := &Blob{file: f}
	info, err := f.Stat()
	if err == nil && info.Size() > 0 {
		b.bytes, err = mapReadOnly(f, info.Size())
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return b, nil
}

// Bytes returns the bytes. They are valid until Close, and a write to them is a fault of
// the process (SIGSEGV).
func (b *Blob) Bytes() []byte { return b.bytes }

// File returns the file, for the Files of a forkspawn.Command. It remains the Blob's, and
// is valid until Close.
func (b *Blob) File() *os.File { return b.file }

// Close unmaps the bytes and closes the file. Other processes keep their mappings. A second
// Close does nothing.
func (b *Blob) Close() (err error) {
	b.close.Do(func() {
		if b.bytes != nil {
			err = unmap(b.bytes)
		}
		err = errors.Join(err, b.file.Close())
	})
	return err
}
