//go:build unix

package unixsock

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spawnwire/spawnwire/internal/wait"
)

// SendFile sends a file over a Unix socket, with one byte (SCM_RIGHTS in unix(7)). It
// waits for room until ctx ends.
func SendFile(ctx context.Context, over net.Conn, f *os.File) error {
	conn, err := unixConn(over)
	if err != nil {
		return err
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	defer untilDone(ctx, conn.SetWriteDeadline)()
	cerr := raw.Control(func(fd uintptr) {
		_, _, err = conn.WriteMsgUnix([]byte{0}, unix.UnixRights(int(fd)), nil)
	})
	if cerr != nil {
		err = cerr
	}
	return orDone(ctx, err)
}

// ReceiveFile receives a file from SendFile. It waits until ctx ends. At the end of the
// connection the error is io.EOF. A lack of descriptors is EMFILE.
func ReceiveFile(ctx context.Context, over net.Conn) (*os.File, error) {
	conn, err := unixConn(over)
	if err != nil {
		return nil, err
	}
	defer untilDone(ctx, conn.SetReadDeadline)()
	oob := make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := conn.ReadMsgUnix(make([]byte, 1), oob)
	if err != nil {
		return nil, orDone(ctx, err)
	}
	if n == 0 {
		return nil, io.EOF
	}
	fds := Rights(oob[:oobn])
	if len(fds) != 1 {
		return nil, os.NewSyscallError("recvmsg", unix.EMFILE)
	}
	return os.NewFile(uintptr(fds[0]), "received"), nil
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

// untilDone sets a deadline when ctx ends. stop takes it back.
func untilDone(ctx context.Context, setDeadline func(time.Time) error) (stop func()) {
	ended := make(chan struct{})
	detach := context.AfterFunc(ctx, func() {
		defer close(ended)
		setDeadline(time.Unix(1, 0))
	})
	return func() {
		if !detach() {
			<-ended
			setDeadline(time.Time{})
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
