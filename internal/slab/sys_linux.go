package slab

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/spawnwire/spawnwire/internal/memfd"
)

const (
	// fixed are the seals of both files: their sizes cannot change.
	fixed = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW
	// owned are the seals of a file that nobody else can map to write, or shorten.
	owned = fixed | unix.F_SEAL_FUTURE_WRITE | unix.F_SEAL_SEAL
)

// create makes and maps a sender's memory, and has send pass it on.
func (o *Out) create(send func(data, counter int) error) (data, counter []byte, err error) {
	data, counter, files, err := createFiles("spawnwire", Size)
	if err != nil {
		return nil, nil, err
	}
	defer closeAll(files[:])
	if err := send(files[0], files[1]); err != nil {
		unmap(data, counter)
		return nil, nil, err
	}
	return data, counter, nil
}

// createFiles makes, maps and seals both files of a sender: the data with size bytes, and
// a page for the receiver.
func createFiles(name string, size int) (data, page []byte, files [2]int, err error) {
	files = [2]int{-1, -1}
	defer func() {
		if err != nil {
			unmap(data, page)
			closeAll(slices.DeleteFunc(files[:], func(fd int) bool { return fd < 0 }))
		}
	}()
	files[0], data, err = file(name, size, unix.PROT_READ|unix.PROT_WRITE)
	if err != nil {
		return
	}
	if err = memfd.Seal(files[0], owned); err != nil {
		return
	}
	files[1], page, err = file(name+" count", os.Getpagesize(), unix.PROT_READ)
	if err != nil {
		return
	}
	if err = memfd.Seal(files[1], fixed); err == nil {
		err = populate(page, false) // fails on Linux before 5.14
	}
	return
}

// file makes and maps a file in memory.
func file(name string, size, prot int) (fd int, mapping []byte, err error) {
	if fd, err = memfd.Create(name); err != nil {
		return -1, nil, err
	}
	if err := unix.Ftruncate(fd, int64(size)); err != nil {
		unix.Close(fd)
		return -1, nil, os.NewSyscallError("ftruncate", err)
	}
	mapping, err = mapShared(fd, size, prot)
	if err != nil {
		unix.Close(fd)
		return -1, nil, err
	}
	return fd, mapping, nil
}

// mapShared maps a file. A forked child does not inherit the mapping: it would write to the
// memory of its parent's channel.
func mapShared(fd, size, prot int) ([]byte, error) {
	b, err := unix.Mmap(fd, 0, size, prot, unix.MAP_SHARED)
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	if err := unix.Madvise(b, unix.MADV_DONTFORK); err != nil {
		unix.Munmap(b)
		return nil, os.NewSyscallError("madvise", err)
	}
	return b, nil
}

// open maps a peer's memory after it has checked the files. It leaves them open.
func open(dataFile, counterFile int) (data, counter []byte, err error) {
	size, err := check(dataFile, owned)
	if err == nil && (size < 1 || size > MaxSize) {
		err = fmt.Errorf("shared memory of %d bytes", size)
	}
	if err != nil {
		return nil, nil, err
	}
	if size, err := check(counterFile, fixed); err != nil || size != int64(os.Getpagesize()) {
		return nil, nil, errors.Join(err, fmt.Errorf("a counter of %d bytes", size))
	}
	if data, err = mapShared(dataFile, int(size), unix.PROT_READ); err != nil {
		return nil, nil, err
	}
	counter, err = mapShared(counterFile, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE)
	if err == nil {
		err = populate(counter, true)
	}
	if err == nil {
		err = memfd.Seal(counterFile, owned)
	}
	if err != nil {
		unmap(data, counter)
		return nil, nil, err
	}
	return data, counter, nil
}

// check returns the size of a file in memory that has these seals.
func check(fd, seals int) (size int64, err error) {
	has, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
	if err != nil {
		return 0, os.NewSyscallError("fcntl", err)
	}
	if has&seals != seals {
		return 0, errors.New("shared memory without its seals")
	}
	var place unix.Statfs_t
	if err := unix.Fstatfs(fd, &place); err != nil {
		return 0, os.NewSyscallError("fstatfs", err)
	}
	if place.Type != unix.TMPFS_MAGIC { // huge pages can be missing when they are read
		return 0, errors.New("shared memory in another file system")
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return 0, os.NewSyscallError("fstat", err)
	}
	return st.Size, nil
}

// populate gives all of b its memory. Without it a lack of memory would be a SIGBUS.
func populate(b []byte, write bool) error {
	advice := unix.MADV_POPULATE_READ
	if write {
		advice = unix.MADV_POPULATE_WRITE
	}
	var err error
	for range 100 {
		err = unix.Madvise(b, advice)
		if !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN) {
			break
		}
	}
	return os.NewSyscallError("madvise", err)
}

func unmap(mappings ...[]byte) {
	for _, b := range mappings {
		if b != nil {
			unix.Munmap(b)
		}
	}
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}
