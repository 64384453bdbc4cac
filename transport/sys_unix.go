//go:build unix

package transport

import (
	"errors"
	"net"
	"os"
	"syscall"
)

// useRaw makes the channel try reads and writes before they block. conn must be a
// socket.
func (c *Channel) useRaw(conn net.Conn) {
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err != nil {
		return // conn is closed, and each call reports it
	}
	c.wr.raw, c.wr.tryWrite = raw, c.wr.writeRaw
	c.rd.raw, c.rd.tryRead, c.rd.room = raw, c.rd.readRaw, pooledBufferSize
}

// writeRaw is for RawConn.Write: it returns false if the write has to wait.
func (wr *writer) writeRaw(fd uintptr) bool {
	for wr.written < len(wr.out) {
		n, err := writeSocket(int(fd), wr.out[wr.written:])
		switch {
		case err == nil:
			wr.written += n
		case errors.Is(err, syscall.EINTR):
		case errors.Is(err, syscall.EAGAIN):
			if wr.noWait {
				return true
			}
			wr.intr.arm(wr.ctx)
			return false
		default:
			wr.failed = os.NewSyscallError("write", err)
			return true
		}
	}
	return true
}

// readRaw is for RawConn.Read: it returns false if the read has to wait.
func (rd *reader) readRaw(fd uintptr) bool {
	p := rd.dest()
	read := readSocket
	if rd.rights != nil {
		read = rd.rights.read
	}
	for {
		n, err := read(int(fd), p)
		switch {
		case err == nil:
			rd.got = n
			return true
		case errors.Is(err, syscall.EINTR):
		case errors.Is(err, syscall.EAGAIN):
			rd.release()
			rd.intr.arm(rd.ctx)
			return false
		default:
			rd.failed = os.NewSyscallError("read", err)
			return true
		}
	}
}
