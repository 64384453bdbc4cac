package forkspawn

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/spawnwire/spawnwire/forkspawn/internal/address"
	"github.com/spawnwire/spawnwire/forkspawn/internal/localnet"
	"github.com/spawnwire/spawnwire/forkspawn/internal/osproc"
	"github.com/spawnwire/spawnwire/internal/access"
	"github.com/spawnwire/spawnwire/internal/unixsock"
	"github.com/spawnwire/spawnwire/transport"
	"github.com/spawnwire/spawnwire/transport/uds"
)

// listen opens the socket for the children.
func (s *Spawner) listen() (net.Listener, error) {
	if s.cfg.Method == MethodInProcess && s.cfg.Start == nil {
		s.local = localnet.New()
		return s.local, nil
	}
	if !s.cfg.Listen.IsZero() {
		return s.cfg.addresses().ListenAt(context.Background())
	}
	newDir := unixsock.NewDir
	if s.cfg.AllowOtherUsers {
		newDir = unixsock.NewSharedDir
	} else if ln := listenBeside(ownParent.Load()); ln != nil {
		return ln, nil
	}
	dir, err := newDir()
	if err != nil {
		return nil, publicError(osproc.NoPlace(err))
	}
	s.dir = dir
	ln, err := s.listenInDir()
	if err != nil {
		dir.Remove()
		s.dir = nil
		return nil, publicError(osproc.NoPlace(err))
	}
	s.socket = &movableListener{ln: ln}
	return s.socket, nil
}

// listenInDir listens in the private directory.
func (s *Spawner) listenInDir() (socketListener, error) {
	path := s.dir.Socket("s")
	addr := transport.Addr{Scheme: transport.SchemeUDS, Target: path}
	ln, err := uds.Listen(context.Background(), addr)
	if err != nil {
		return nil, err
	}
	mode := fs.FileMode(0o600) // whatever the umask is
	if s.cfg.AllowOtherUsers {
		mode = 0o666
	}
	if err := os.Chmod(path, mode); err != nil {
		ln.Close()
		return nil, err
	}
	return ln.(socketListener), nil
}

// restoreSocket makes the socket in the private directory again, with the same
// address, if somebody has removed it: a cleaner of temporary directories, for
// example.
func (s *Spawner) restoreSocket() error {
	if s.socket == nil {
		return nil
	}
	path := s.dir.Socket("s")
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	s.socket.moving.Lock()
	defer s.socket.moving.Unlock()
	if _, err := os.Lstat(path); err == nil {
		return nil // another Spawn was faster
	}
	err := s.dir.Restore()
	var ln socketListener
	if err == nil {
		ln, err = s.listenInDir()
	}
	if err != nil {
		return publicError(osproc.NoPlace(err))
	}
	s.socket.move(ln)
	return nil
}

// socketListener is what uds.Listen returns.
type socketListener interface {
	net.Listener
	SetDeadline(time.Time) error
	syscall.Conn
}

// movableListener is a listener whose socket can be replaced.
type movableListener struct {
	moving sync.Mutex // held while a new socket is made

	mu     sync.Mutex // guards what follows; not held during Accept
	ln     socketListener
	closed bool
}

func (l *movableListener) current() socketListener {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ln
}

// move replaces the socket. A call of Accept goes on with the new one.
func (l *movableListener) move(ln socketListener) {
	l.mu.Lock()
	old, closed := l.ln, l.closed
	l.ln = ln
	l.mu.Unlock()
	if closed {
		ln.Close()
	}
	old.Close()
}

func (l *movableListener) Accept() (net.Conn, error) {
	for {
		ln := l.current()
		conn, err := ln.Accept()
		if err == nil || ln == l.current() {
			return conn, err
		}
	}
}

func (l *movableListener) Close() error {
	l.mu.Lock()
	l.closed = true
	ln := l.ln
	l.mu.Unlock()
	return ln.Close()
}

func (l *movableListener) Addr() net.Addr { return l.current().Addr() }

func (l *movableListener) SetDeadline(t time.Time) error { return l.current().SetDeadline(t) }

func (l *movableListener) SyscallConn() (syscall.RawConn, error) {
	return l.current().SyscallConn()
}

// besideBound bounds the wait for a lock of the parent's directory.
const besideBound = time.Second

// listenBeside listens in the directory of the parent's socket, under a name
// known to the parent. So the parent can remove the socket if this process is
// killed. It returns nil if that is not possible.
func listenBeside(p *Parent) net.Listener {
	if p == nil || p.addr.IsZero() || p.releasable { // it outlives the directory
		return nil
	}
	path := unixsock.Beside(p.addr.Target,
		fmt.Sprintf("%s%d", socketPrefix(p.id), p.sockets.Add(1)))
	if path == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), besideBound)
	defer cancel()
	ln, err := uds.Listen(ctx, transport.Addr{Scheme: transport.SchemeUDS, Target: path})
	if err != nil {
		return nil
	}
	return ln
}

// ListenBeside listens on a Unix socket for other children of the parent. The parent
// removes the socket if this process is killed. Only this module can call it.
func (p *Parent) ListenBeside(access.Key) (net.Listener, error) {
	if ln := listenBeside(p); ln != nil {
		return ln, nil
	}
	dir, err := unixsock.NewDir()
	if err != nil {
		return nil, publicError(osproc.NoPlace(err))
	}
	addr := transport.Addr{Scheme: transport.SchemeUDS, Target: dir.Socket("s")}
	ln, err := uds.Listen(context.Background(), addr)
	if err != nil {
		dir.Remove()
		return nil, publicError(osproc.NoPlace(err))
	}
	return &dirListener{Listener: ln, dir: dir}, nil
}

// dirListener removes the directory of its socket.
type dirListener struct {
	net.Listener
	dir  *unixsock.Dir
	once sync.Once
}

func (l *dirListener) Close() error {
	err := l.Listener.Close()
	l.once.Do(func() { l.dir.Remove() })
	return err
}

// socketPrefix returns the first 11 bytes of the names of a child's sockets. At
// most 16 bytes always fit into an address.
func socketPrefix(id string) string { return id[:min(len(id), 10)] + "-" }

// removeDir removes the socket's directory, if the Spawner has made one.
func (s *Spawner) removeDir() error {
	if s.dir == nil {
		return nil
	}
	return s.dir.Remove()
}

// addresses returns the settings about addresses.
func (cfg *Config) addresses() *address.Settings {
	return &address.Settings{
		Listen: cfg.Listen, Advertise: cfg.Advertise, AllowUnencryptedTCP: cfg.AllowUnencryptedTCP,
	}
}

// badAddress makes a ConfigError of an [*address.FieldError].
func badAddress(err error) error {
	if f := (*address.FieldError)(nil); errors.As(err, &f) {
		return badField(f.Field, "%s", f.Reason)
	}
	return err
}
