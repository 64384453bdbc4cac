package blob

import (
	"errors"
	"fmt"
	"math"
	"os"

	"golang.org/x/sys/unix"

	"github.com/spawnwire/spawnwire/internal/memfd"
)

// sealed are the seals of a Blob; see fcntl(2).
const sealed = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE

// create returns a new file in memory.
func create(name string) (*os.File, error) {
	fd, err := memfd.Create(name)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// write maps the file for fill. It allocates all memory before: without it, a write would
// end the process with SIGBUS.
func write(f *os.File, size int, fill func([]byte) error) error {
	if size < 0 || size > math.MaxInt-os.Getpagesize() {
		return fmt.Errorf("a size of %d bytes", size)
	}
	if size == 0 {
		return fill(nil)
	}
	if err := allocate(int(f.Fd()), int64(size)); err != nil {
		return os.NewSyscallError("fallocate", err)
	}
	b, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return os.NewSyscallError("mmap", err)
	}
	defer unix.Munmap(b)
	return fill(b)
}

// allocate allocates the memory in pieces, because a signal undoes a call of fallocate(2).
// A profiler sends one each 10 milliseconds.
//
// A file in memory is not limited, and the kernel would kill other processes for it. So
// allocate refuses what all the memory of the machine cannot hold.
func allocate(fd int, size int64) error {
	var machine unix.Sysinfo_t
	if err := unix.Sysinfo(&machine); err == nil &&
		uint64(size)/uint64(machine.Unit) > uint64(machine.Totalram+machine.Totalswap) {
		return unix.ENOMEM
	}
	const piece = 1 << 20
	for at := int64(0); at < size; {
		switch err := unix.Fallocate(fd, 0, at, min(piece, size-at)); {
		case err == nil:
			at += piece
		case !errors.Is(err, unix.EINTR):
			return err
		}
	}
	return nil
}

// discard closes a file that was not finished.
func discard(f *os.File) { f.Close() }

// seal makes the bytes constant. It fails if there is a writable mapping.
func seal(f *os.File) (*os.File, error) {
	if err := memfd.Seal(int(f.Fd()), sealed); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func checkSealed(fd int) error {
	seals, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
	if err != nil || seals&sealed != sealed { // EINVAL: not a file in memory
		return ErrNotSealed
	}
	return nil
}
