package slab

import (
	"errors"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// create makes and maps a ring, and has send pass it on. The caller holds o.mu.
func (o *RingOut) create(send func(fds ...int) error) (err error) {
	if o.home, o.owner, err = home(); err != nil {
		return err
	}
	page := os.Getpagesize()
	data, theirs, files, err := createFiles("spawnwire ring", page+RingSize)
	if err != nil {
		return err
	}
	defer closeAll(files[:])
	defer func() {
		if err != nil {
			unmap(data, theirs)
		}
	}()
	if err = populate(data, true); err != nil {
		return err
	}
	bells, err := newBells()
	if err != nil {
		return err
	}
	if err = send(files[0], files[1], bells[0], bells[1]); err != nil {
		closeAll(bells[:])
		return err
	}
	// After an error here the peer maps it in vain.
	return o.open(data, theirs, data[page:], bells[1], bells[0])
}

// newBells returns the receiver's bell and the sender's.
func newBells() (bells [2]int, err error) {
	for i := range bells {
		if bells[i], err = unix.Eventfd(1, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC); err != nil {
			closeAll(bells[:i])
			return bells, os.NewSyscallError("eventfd2", err)
		}
	}
	return bells, nil
}

// mapFiles maps a peer's ring. It takes over the descriptors. The caller holds in.mu.
func (in *RingIn) mapFiles(fds []int) (err error) {
	bells := fds[2:]
	defer func() { closeAll(bells) }()
	defer closeAll(fds[:2])
	if in.home, in.owner, err = home(); err != nil {
		return err
	}
	for _, fd := range bells {
		if err := checkBell(fd); err != nil {
			return err
		}
	}
	data, own, err := open(fds[0], fds[1])
	if err != nil {
		return err
	}
	page := os.Getpagesize()
	if len(data) <= page {
		err = errors.New("a ring without bytes")
	} else {
		err = populate(data, false)
	}
	if err == nil {
		bells = nil // open closes them
		err = in.open(own, data, data[page:], fds[2], fds[3])
	}
	if err != nil {
		unmap(data, own)
	}
	return err
}

// checkBell returns an error unless fd is an eventfd. A write to another file might block.
func checkBell(fd int) error {
	kind, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
	if err == nil && kind != "anon_inode:[eventfd]" {
		err = errors.New("a bell that is no eventfd: " + kind)
	}
	return err
}

// newBell takes over fd. A poller must be able to wait for it.
func newBell(fd int) (*os.File, syscall.RawConn, error) {
	if err := unix.SetNonblock(fd, true); err != nil { // otherwise os.File does not poll
		unix.Close(fd)
		return nil, nil, os.NewSyscallError("fcntl", err)
	}
	f := os.NewFile(uintptr(fd), "spawnwire bell")
	raw, err := f.SyscallConn()
	if err == nil {
		err = f.SetReadDeadline(time.Time{})
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, raw, nil
}

// zero is what a ring writes to a bell.
var zero uint64

// ring wakes the side that waits for a bell. It does not block, see ringSide.
func ring(bell int) {
	syscall.RawSyscall(syscall.SYS_WRITE, uintptr(bell), uintptr(unsafe.Pointer(&zero)), 8)
}

// homePage is memory with the id of this process. It is 0 again in a forked child.
var homePage struct {
	sync.Mutex
	word *uint64
}

// home returns the word with the id of this process, and the id. Getpid would be a system
// call for each message.
func home() (word *uint64, owner uint64, err error) {
	h := &homePage
	h.Lock()
	defer h.Unlock()
	if h.word == nil {
		b, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE,
			unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
		if err != nil {
			return nil, 0, os.NewSyscallError("mmap", err)
		}
		if err := unix.Madvise(b, unix.MADV_WIPEONFORK); err != nil {
			unix.Munmap(b)
			return nil, 0, os.NewSyscallError("madvise", err)
		}
		h.word = word64(b)
	}
	atomic.CompareAndSwapUint64(h.word, 0, uint64(os.Getpid()))
	return h.word, atomic.LoadUint64(h.word), nil
}
