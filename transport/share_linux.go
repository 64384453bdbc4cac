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
// Nothing else is in this write, and the kernel takes so few bytes as a whole.
func (wr *writer) sendMemory(data, counter int) (err error) {
	var memory [headerSize]byte
	frame.PutHeader(memory[:], frame.KindMemory, 0)
	if wr.raw.Write(func(fd uintptr) bool {
		_, err = unix.SendmsgN(int(fd), memory[:], unix.UnixRights(data, counter), nil,
			unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		return true
	}) != nil || errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
		return slab.ErrAgain
	}
	return err
}

// rights reads a socket with room for the descriptors of a memory frame. A read without it
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

// controlSize has room for two descriptors.
var controlSize = unix.CmsgSpace(2 * 4)
