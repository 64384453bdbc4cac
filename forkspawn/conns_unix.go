//go:build unix

package forkspawn

import (
	"context"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spawnwire/spawnwire/internal/unixsock"
	"github.com/spawnwire/spawnwire/internal/wait"
)

// sendConn sends a connection over a Unix socket (SCM_RIGHTS in unix(7)).
func sendConn(ctx context.Context, over, conn net.Conn) error {
	f, err := conn.(*net.UnixConn).File()
	if err != nil {
		return err
	}
	defer f.Close()
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	defer untilDone(ctx, over.SetWriteDeadline)()
	cerr := raw.Control(func(fd uintptr) {
		_, _, err = over.(*net.UnixConn).WriteMsgUnix([]byte{0}, unix.UnixRights(int(fd)), nil)
	})
	if cerr != nil {
		err = cerr
	}
	return orDone(ctx, err)
}

// receiveConn receives a connection over a Unix socket.
func receiveConn(ctx context.Context, over net.Conn) (net.Conn, error) {
	defer untilDone(ctx, over.SetReadDeadline)()
	oob := make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := over.(*net.UnixConn).ReadMsgUnix(make([]byte, 1), oob)
	if err != nil {
		return nil, orDone(ctx, err)
	}
	if n == 0 {
		return nil, io.EOF
	}
	fds := unixsock.Rights(oob[:oobn])
	if len(fds) != 1 {
		return nil, os.NewSyscallError("recvmsg", unix.EMFILE)
	}
	f := os.NewFile(uintptr(fds[0]), "socketpair")
	defer f.Close()
	return net.FileConn(f)
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
