package forkspawn

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"runtime"
	"syscall"

	"github.com/spawnwire/spawnwire/internal/access"
	"github.com/spawnwire/spawnwire/internal/unixsock"
	"github.com/spawnwire/spawnwire/internal/wait"
)

// ErrNoConnections is the error of [Child.Open] and [Parent.Accept] without
// Command.Connections.
var ErrNoConnections = errors.New("the child was started without Command.Connections")

// connsName is the name of the socket for connections among a child's files.
const connsName = "spawnwire"

// Conn takes the channel over as a stream of bytes, for protocols of its own. The
// child must call [Parent.Conn]. Then both sides' methods for messages fail with
// transport.ErrChannelClosed. Call it between messages: it fails during a send, and
// while a received message waits.
//
// A Read or Write that fails because the child has ended returns an [*ExitError]. If
// the child exited with status 0, Read returns io.EOF. At the end of the stream, Read
// waits for the child's exit status, for two seconds at most. [Child.Stop] closes
// the connection.
func (c *Child) Conn(ctx context.Context) (net.Conn, error) {
	if c.peer == nil {
		return nil, c.noChannel()
	}
	conn, ahead, err := c.peer.Channel.Frames(access.Key{}).Take(ctx)
	if err != nil {
		return nil, c.explain(ctx, err)
	}
	return &childConn{Conn: aheadOf(conn, ahead), c: c}, nil
}

// Conn takes the channel over as a stream of bytes; see [Child.Conn]. The process
// should close it before it exits.
func (p *Parent) Conn(ctx context.Context) (net.Conn, error) {
	conn, ahead, err := p.joined.Channel.Frames(access.Key{}).Take(ctx)
	if err != nil {
		return nil, p.explain(err)
	}
	return aheadOf(conn, ahead), nil
}

// Open makes another connection to the child, which must call [Parent.Accept]. Only
// the two processes can have its ends, so it needs no further authentication. Its
// errors are those of [Child.Conn], and the caller must close it.
//
// Open returns when the kernel has the connection, and the child need not have
// accepted it. It needs Command.Connections. Open may be called concurrently.
func (c *Child) Open(ctx context.Context) (net.Conn, error) {
	fail := func(err error) (net.Conn, error) {
		return nil, prefixed(fmt.Sprintf("open a connection to %q", c.spec.Name), err)
	}
	switch {
	case c.conns == nil:
		return fail(ErrNoConnections)
	case wait.Closed(c.exited):
		return nil, c.exitError(nil)
	}
	near, far, err := unixsock.Pair()
	if err != nil {
		return fail(explainScarcity(err))
	}
	err = sendConns(ctx, c.conns, far)
	far.Close()
	if err != nil {
		near.Close()
		if c.awaitExit(ctx, statusBound) {
			return nil, c.exitError(err)
		}
		return fail(err)
	}
	return &childConn{Conn: near, c: c}, nil
}

// Accept returns the next connection that the parent makes with [Child.Open]. It
// waits until ctx ends. If the parent is gone, the error matches [ErrParentGone]. The
// caller must close the connection. Accept may be called concurrently.
func (p *Parent) Accept(ctx context.Context) (net.Conn, error) {
	fail := func(err error) (net.Conn, error) { return nil, prefixed("accept a connection", err) }
	select {
	case p.accepting <- struct{}{}:
		defer func() { <-p.accepting }()
	case <-ctx.Done():
		return fail(wait.Cause(ctx))
	}
	if p.conns == nil {
		f, err := p.File(connsName)
		if err != nil {
			return fail(ErrNoConnections)
		}
		if p.conns, err = net.FileConn(f); err != nil {
			return fail(explainScarcity(err))
		}
		f.Close()
	}
	conns, err := receiveConns(ctx, p.conns, 1)
	if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) {
		err = ErrParentGone
	}
	if err != nil {
		return fail(explainScarcity(err))
	}
	return conns[0], nil
}

// sendConns sends connections over a Unix socket, in one message.
func sendConns(ctx context.Context, over net.Conn, conns ...net.Conn) error {
	files := make([]*os.File, len(conns))
	for i, conn := range conns {
		f, err := conn.(interface{ File() (*os.File, error) }).File()
		if err != nil {
			return err
		}
		defer f.Close()
		files[i] = f
	}
	return unixsock.SendFiles(ctx, over, files...)
}

// receiveConns receives n connections, which were sent in one message.
func receiveConns(ctx context.Context, over net.Conn, n int) (conns []net.Conn, err error) {
	files, err := unixsock.ReceiveFiles(ctx, over, n)
	for _, f := range files {
		conn, ferr := net.FileConn(f)
		f.Close()
		if ferr != nil {
			err = ferr
			continue
		}
		conns = append(conns, conn)
	}
	if err != nil {
		closeAll(conns)
		return nil, err
	}
	return conns, nil
}

// closeAll closes connections. Some may be nil.
func closeAll(conns []net.Conn) {
	for _, conn := range conns {
		if conn != nil {
			conn.Close()
		}
	}
}

// openConns adds a socket for more connections to the files of attr, with a name of this
// package, and sets near. The caller closes far after the start, and near in the end.
func openConns(attr *ProcessAttr, name string, near *net.Conn) (far *os.File, err error) {
	if runtime.GOOS == "windows" {
		return nil, fmt.Errorf("more connections: %w", errors.ErrUnsupported)
	}
	if attr.Files[name] != nil {
		return nil, badField("Command.Files", "%q is reserved", name)
	}
	own, other, err := unixsock.Pair()
	if err != nil {
		return nil, explainScarcity(err)
	}
	far, err = other.(*net.UnixConn).File()
	other.Close()
	if err != nil {
		own.Close()
		return nil, explainScarcity(err)
	}
	*near = own
	attr.Files = maps.Clone(attr.Files)
	if attr.Files == nil {
		attr.Files = make(map[string]*os.File)
	}
	attr.Files[name] = far
	return far, nil
}

// childConn is a connection to a child, with the child's end as its error.
type childConn struct {
	net.Conn
	c *Child
}

func (conn *childConn) Read(b []byte) (int, error) {
	n, err := conn.Conn.Read(b)
	return n, conn.explain(err)
}

func (conn *childConn) Write(b []byte) (int, error) {
	n, err := conn.Conn.Write(b)
	return n, conn.explain(err)
}

// NetConn returns the connection below, for descriptors (package blob).
func (conn *childConn) NetConn() net.Conn { return conn.Conn }

// CloseWrite ends the sending direction.
func (conn *childConn) CloseWrite() error { return closeWrite(conn.Conn) }

func closeWrite(conn net.Conn) error {
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// explain returns an [*ExitError] in place of err if the child has ended.
func (conn *childConn) explain(err error) error {
	c := conn.c
	switch {
	case err == nil:
		return nil
	case errors.Is(err, os.ErrDeadlineExceeded),
		errors.Is(err, net.ErrClosed) && !wait.Closed(c.exited):
		return err
	case !c.awaitExit(context.Background(), statusBound), errors.Is(err, io.EOF) && c.succeeded():
		return err
	}
	return c.exitError(err)
}

// aheadConn is a connection with bytes that were read before.
type aheadConn struct {
	net.Conn
	ahead []byte
}

func aheadOf(conn net.Conn, ahead []byte) net.Conn {
	if len(ahead) == 0 {
		return conn
	}
	return &aheadConn{conn, ahead}
}

// CloseWrite ends the sending direction.
func (conn *aheadConn) CloseWrite() error { return closeWrite(conn.Conn) }

func (conn *aheadConn) Read(b []byte) (int, error) {
	if len(conn.ahead) > 0 {
		n := copy(b, conn.ahead)
		conn.ahead = conn.ahead[n:]
		return n, nil
	}
	return conn.Conn.Read(b)
}
