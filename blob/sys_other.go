//go:build unix && !linux

package blob

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

func create(string) (*os.File, error) { return os.CreateTemp("", "spawnwire-blob-") }

// write fills memory of its own first, because a write to a mapping of a file would end
// the process when the disk is full.
func write(f *os.File, size int, fill func([]byte) error) error {
	if size < 0 {
		return fmt.Errorf("a size of %d bytes", size)
	}
	b := make([]byte, size)
	if err := fill(b); err != nil {
		return err
	}
	_, err := f.Write(b)
	return err
}

// discard removes a file that was not finished.
func discard(f *os.File) {
	os.Remove(f.Name())
	f.Close()
}

// seal removes the name of the file, and opens it for reading only.
func seal(f *os.File) (*os.File, error) {
	reader, err := os.Open(f.Name())
	os.Remove(f.Name())
	f.Close()
	return reader, err
}

func checkSealed(fd int) error {
	var st unix.Stat_t
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil || flags&unix.O_ACCMODE != unix.O_RDONLY || unix.Fstat(fd, &st) != nil ||
		st.Mode&unix.S_IFMT != unix.S_IFREG || st.Nlink != 0 {
		return ErrNotSealed
	}
	return nil
}
