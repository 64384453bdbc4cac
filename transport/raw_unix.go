//go:build unix

package transport

import (
	"io"
	"net"
	"os"
	"syscall"
)

// raw prepares reads and writes that do not block, on a connection that is a socket of the kernel's.
func (c *Channel) raw(conn net.Conn) {
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err != nil {
		return // it is closed already, and every call will say so
	}
	wr := &c.wr
	wr.raw = raw
	wr.tryWrite = func(fd uintptr) bool {
		for wr.written < len(wr.out) {
			n, err := writeNow(int(fd), wr.out[wr.written:])
			switch err {
			case nil:
				wr.written += n
			case syscall.EINTR:
			case syscall.EAGAIN:
				wr.intr.arm(wr.ctx)
				return false
			default:
				wr.failed = os.NewSyscallError("write", err)
				return true
			}
		}
		return true
	}
	rd := &c.rd
	rd.raw, rd.room = raw, pooledBufferSize
	rd.tryRead = func(fd uintptr) bool {
		if rd.peeked > 0 {
			if rd.failed = rd.drop(int(fd)); rd.failed != nil {
				return true
			}
		}
		p := rd.dest()
		ahead := rd.ahead != nil && !rd.pending && rd.w == 0 && readv != nil
		if ahead {
			p = p[:headerSize]
			rd.iov = [2][]byte{p, rd.ahead[:min(rd.expect, rd.room-headerSize)]}
		}
		for {
			var n int
			var err error
			switch {
			case ahead:
				n, err = readv(int(fd), rd.iov[:])
			case rd.peeking:
				n, err = peekNow(int(fd), p)
			default:
				n, err = readNow(int(fd), p)
			}
			switch err {
			case nil:
				rd.got = min(n, len(p))
				rd.gotAhead = n - rd.got
				return true
			case syscall.EINTR:
			case syscall.EAGAIN:
				rd.release()
				rd.intr.arm(rd.ctx)
				return false
			default:
				rd.failed = os.NewSyscallError("read", err)
				return true
			}
		}
	}
}

// unpeek takes what PeekFrame has left in the socket. An error is that of the next receive.
func (rd *reader) unpeek() {
	rd.raw.Control(func(fd uintptr) { rd.drop(int(fd)) })
}

// drop is unpeek of a descriptor.
func (rd *reader) drop(fd int) error {
	used := make([]byte, rd.peeked)
	for rd.peeked > 0 {
		n, err := readNow(fd, used[:rd.peeked])
		switch {
		case err == syscall.EINTR:
		case err != nil:
			return os.NewSyscallError("read", err)
		case n == 0:
			return io.ErrUnexpectedEOF
		}
		rd.peeked -= max(n, 0)
	}
	return nil
}
