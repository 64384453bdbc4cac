//go:build unix

package unixsock

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/spawnwire/spawnwire/internal/wait"
)

// SendFiles sends files over a Unix socket, with one byte (SCM_RIGHTS in unix(7)). It
// waits for room until ctx ends.
func SendFiles(ctx context.Context, over net.Conn, files ...*os.File) error {
	conn, err := unixConn(over)
	if err != nil {
		return err
	}
	fds := make([]int, len(files))
	for i, f := range files {
		raw, err := f.SyscallConn() // unlike Fd, it does not change the file's mode
		if err != nil {
			return err
		}
		if err := raw.Control(func(fd uintptr) { fds[i] = int(fd) }); err != nil {
			return err
		}
	}
	defer wait.Deadline(ctx, conn.SetWriteDeadline)()
	_, _, err = conn.WriteMsgUnix([]byte{0}, unix.UnixRights(fds...), nil)
	runtime.KeepAlive(files)
	return orDone(ctx, err)
}

// ReceiveFiles receives n files, which SendFiles has sent in one message. It waits until
// ctx ends. At the end of the connection the error is io.EOF. A lack of descriptors is
// EMFILE.
func ReceiveFiles(ctx context.Context, over net.Conn, n int) (files []*os.File, err error) {
	conn, err := unixConn(over)
	if err != nil {
		return nil, err
	}
	defer wait.Deadline(ctx, conn.SetReadDeadline)()
	oob := make([]byte, unix.CmsgSpace(4*n))
	size, oobn, _, _, err := conn.ReadMsgUnix(make([]byte, 1), oob)
	if err != nil {
		return nil, orDone(ctx, err)
	}
	if size == 0 {
		return nil, io.EOF
	}
	for _, fd := range Rights(oob[:oobn]) {
		files = append(files, os.NewFile(uintptr(fd), "received"))
	}
	if len(files) != n {
		for _, f := range files {
			f.Close()
		}
		return nil, os.NewSyscallError("recvmsg", unix.EMFILE)
	}
	return files, nil
}

// unixConn returns the Unix socket below conn.
func unixConn(conn net.Conn) (*net.UnixConn, error) {
	for {
		switch c := conn.(type) {
		case *net.UnixConn:
			return c, nil
		case interface{ NetConn() net.Conn }:
			conn = c.NetConn()
		default:
			return nil, fmt.Errorf("not a Unix socket: %w", errors.ErrUnsupported)
		}
	}
}

// orDone returns the cause of ctx in place of err if ctx has ended.
func orDone(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return wait.Cause(ctx)
	}
	return err
}
