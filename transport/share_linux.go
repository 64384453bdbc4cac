package transport

import (
	"errors"
	"net"

	"golang.org/x/sys/unix"

	"github.com/spawnwire/spawnwire/internal/frame"
	"github.com/spawnwire/spawnwire/internal/slab"
	"github.com/spawnwire/spawnwire/internal/unixsock"
)

func canShare(conn net.Conn) bool {
	_, ok := conn.(*net.UnixConn)
	return ok
}

// sendMemory sends a memory frame with its descriptors, if there is room for it now.
func (wr *writer) sendMemory(data, counter int) error {
	return wr.sendEmpty(frame.KindMemory, data, counter)
}

// sendRing sends a ring frame with its descriptors, if there is room for it now.
func (wr *writer) sendRing(fds ...int) error { return wr.sendEmpty(frame.KindRing, fds...) }

// sendEnter sends an enter frame, if there is room for it now. It reports whether it has.
func (wr *writer) sendEnter() bool { return wr.sendEmpty(frame.KindEnter) == nil }

// sendEmpty sends a frame without a body. Nothing else is in this write, and the kernel
// takes so few bytes as a whole.
func (wr *writer) sendEmpty(kind frame.Kind, fds ...int) (err error) {
	var empty [headerSize]byte
	frame.PutHeader(empty[:], kind, 0)
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	if wr.raw.Write(func(fd uintptr) bool {
		_, err = unix.SendmsgN(int(fd), empty[:], rights, nil,
			unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		return true
	}) != nil || errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
		return slab.ErrAgain
	}
	return err
}

// waitHangUp waits until the peer has closed its end of the socket. A deadline ends it.
func (wr *writer) waitHangUp() error {
	return wr.raw.Write(func(fd uintptr) bool {
		events := []unix.PollFd{{Fd: int32(fd)}} // hang-up and errors are reported unasked
		n, err := unix.Poll(events, 0)
		return err == nil && n > 0
	})
}

// rights reads a socket with room for the descriptors of a frame. A read without it
// would close them. The kernel ends a read after the bytes that they have come with.
type rights struct {
	offered func(fds []int)
	message message
}

// read is like readSocket.
func (r *rights) read(fd int, p []byte) (int, error) {
	n, control, err := r.message.receive(fd, p)
	if len(control) > 0 {
		r.offered(unixsock.Rights(control))
	}
	return n, err
}

// controlSize has room for the four descriptors of a ring.
var controlSize = unix.CmsgSpace(4 * 4)
