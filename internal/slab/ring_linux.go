package slab

import (
	"encoding/binary"
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
		const flags = unix.EFD_SEMAPHORE | unix.EFD_NONBLOCK | unix.EFD_CLOEXEC
		if bells[i], err = unix.Eventfd(0, flags); err != nil {
			closeAll(bells[:i])
			return bells, os.NewSyscallError("eventfd2", err)
		}
		_, err = unix.Write(bells[i], binary.NativeEndian.AppendUint64(nil, bellValue))
		if err == nil {
			err = ring(bells[i])
		}
		if err != nil {
			closeAll(bells[:i+1])
			return bells, err
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
	if err := ring(fds[3]); err != nil {
		return err
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

// checkBell returns an error unless fd is an eventfd. A read of another file might block.
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

// bellValue is how often a bell can be rung. It is more than enough.
const bellValue = 1 << 63

// rung is what a ring reads, and nobody uses it.
var (
	rung     [8]byte
	intoRung = unix.Iovec{Base: &rung[0], Len: 8}
)

// ring wakes the side that waits for a bell. It does not block (RWF_NOWAIT), see ringSide.
// The error is that of a kernel that cannot do so, or of a bell that the peer has spoiled.
func ring(bell int) error {
	if _, _, errno := syscall.RawSyscall6(unix.SYS_PREADV2, uintptr(bell),
		uintptr(unsafe.Pointer(&intoRung)), 1, ^uintptr(0), ^uintptr(0),
		unix.RWF_NOWAIT); errno != 0 {
		return os.NewSyscallError("preadv2", errno)
	}
	return nil
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
