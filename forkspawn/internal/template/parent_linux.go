//go:build amd64 || arm64

package template

import (
	"context"
	"fmt"
	"io/fs"
	"net"
	"os"
	"runtime"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/spawnwire/spawnwire/forkspawn/internal/osproc"
	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/internal/wait"
)

// Supported reports whether this platform has templates. The template finds out
// whether this program and machine can fork.
const Supported = true

// Forkserver has children forked by a template, which it starts when it needs
// one. Its methods may be called concurrently.
type Forkserver struct {
	cfg Config
	// holds one value while a child is being forked, because a template forks one at a time
	turn   chan struct{}
	starts sync.WaitGroup // goroutines that start a template; all have begun before closed is set

	mu      sync.Mutex // guards what follows; never held over input, output or a wait
	closed  bool
	current *process // the last template that was started, or nil
	// by pid: started on the Spawner's thread, or forked, and not reaped yet
	own map[int]*osproc.Process
}

// New returns a Forkserver without a template. The caller calls Close in the
// end, and then Wait.
func New(cfg Config) *Forkserver {
	return &Forkserver{cfg: cfg, turn: make(chan struct{}, 1), own: make(map[int]*osproc.Process)}
}

// Started notes a process that was started on the Spawner's thread. It is
// called there.
func (f *Forkserver) Started(p *osproc.Process) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.own[p.PID()] = p
}

// Reaped forgets a process, which must not be reaped before Started was called.
func (f *Forkserver) Reaped(p *osproc.Process) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.own[p.PID()] == p { // another process may have the number by now
		delete(f.own, p.PID())
	}
}

// Close ends the template. Its children live on.
func (f *Forkserver) Close() {
	f.mu.Lock()
	f.closed = true
	current := f.current
	f.mu.Unlock()
	if current != nil {
		current.kill()
	}
}

// Wait waits until no template is being started. Config.Reaps counts their
// ends.
func (f *Forkserver) Wait() { f.starts.Wait() }

// PID returns the process id of the template that is ready, or 0.
func (f *Forkserver) PID() int {
	f.mu.Lock()
	t := f.current
	f.mu.Unlock()
	if t == nil || t.useless() || !wait.Closed(t.ready) {
		return 0
	}
	return t.proc.PID()
}

// Ready waits until there is a template that waits for requests, and starts one
// if there is none. Its errors are those of the template's start: [*Refusal],
// [*Error], [*osproc.ResourceError], ErrClosed, or ctx's.
func (f *Forkserver) Ready(ctx context.Context) error {
	_, err := f.get(ctx)
	return err
}

// get returns a template that is ready, and starts one if there is none.
func (f *Forkserver) get(ctx context.Context) (*process, error) {
	f.mu.Lock()
	t := f.current
	var replaced string
	switch {
	case f.closed:
		f.mu.Unlock()
		return nil, ErrClosed
	case t == nil || t.useless():
		if t != nil {
			replaced = t.failure()
			t.kill()
		}
		t = newProcess(f)
		f.current = t
		f.starts.Go(t.run)
	}
	f.mu.Unlock()
	if replaced != "" {
		f.cfg.Logger.Warn("forkspawn: another template is started", "reason", replaced)
	}
	select {
	case <-t.ready:
		return t, t.err
	case <-ctx.Done():
		return nil, fmt.Errorf("the template is not ready: %w", wait.Cause(ctx))
	}
}

// Fork has a child forked. attr has the ticket for its Secret. After it has
// sent the request, Fork waits for the template's reply even if ctx ends, for
// forkTimeout at most. Otherwise there could be a child unknown to this process.
//
// With serve the child has its connections from the start. Fork calls serve
// once at most, with this process's ends of two socket pairs. serve must not
// wait.
//
// The errors are those of Ready, and [*fs.PathError].
func (f *Forkserver) Fork(
	ctx context.Context, attr *osproc.Attr, serve func(message, control net.Conn),
) (*osproc.Process, error) {
	files, release, err := osproc.StandardFiles(attr)
	if err != nil {
		return nil, osproc.NoNullDevice(err)
	}
	defer release()
	give, err := newHandover(ctx, files, attr, serve)
	if err != nil {
		return nil, err
	}
	defer give.sent()
	env := attr.Env
	if env == nil {
		env = os.Environ()
	}
	r := request{
		ownGroup: attr.OwnGroup, deathSignal: attr.ParentDeathSignal,
		connected: serve != nil, given: len(attr.Files) > 0,
		ticket: attr.Secret[len(handshake.TicketEnv)+1:], env: osproc.LastOfEach(env),
	}
	message := r.encode()
	defer clear(message)
	if len(message) > maxMessage {
		return nil, &fs.PathError{Op: "fork", Path: "environment", Err: syscall.E2BIG}
	}

	select {
	case f.turn <- struct{}{}:
		defer func() { <-f.turn }()
	case <-ctx.Done():
		return nil, wait.Cause(ctx)
	}
	t, err := f.get(ctx)
	if err != nil {
		return nil, err
	}
	var p *osproc.Process
	err = f.cfg.Reaper.Start(func() (int, error) {
		if p, err = t.fork(message, give, attr.OwnGroup); err != nil {
			return 0, err
		}
		return p.PID(), nil
	})
	return p, err
}

// handover is the descriptors that a child gets with a request.
type handover struct {
	fds   []int // in the order of the wire
	own   []int // those of fds that the parent has for the child alone
	serve func() error
	sent  func() error
}

// newHandover opens a child's working directory and, with serve, its
// connections. The caller calls sent when the template has the descriptors, or
// will not get them. Then the child alone has its ends of the connections, and
// the parent's ends are served.
func newHandover(
	ctx context.Context, files [3]*os.File, attr *osproc.Attr,
	serve func(message, control net.Conn),
) (*handover, error) {
	h := &handover{fds: make([]int, 0, connectedFiles), serve: func() error { return nil }}
	h.sent = sync.OnceValue(func() error {
		closeAll(h.own)
		return h.serve()
	})
	for _, file := range files {
		fd := int(file.Fd())
		if fd < 0 {
			return nil, &fs.PathError{Op: "start", Path: file.Name(), Err: os.ErrClosed}
		}
		h.fds = append(h.fds, fd)
	}
	fd, err := openDirWithin(ctx, attr.Dir)
	if err != nil {
		return nil, osproc.ExplainStart(err)
	}
	h.own = append(h.own, fd)
	if serve != nil {
		near, far, err := pairs()
		if err != nil {
			closeAll(h.own)
			return nil, osproc.ExplainScarcity(err)
		}
		h.own = append(h.own, far[:]...)
		if err := sendFiles(near[1], attr.Files); err != nil {
			closeAll(h.own)
			closeAll(near[:])
			return nil, osproc.ExplainStart(err)
		}
		h.serve = func() error { // while the template forks
			conns, err := connections(near)
			if err == nil {
				serve(conns[0], conns[1])
			}
			return osproc.ExplainScarcity(err)
		}
	}
	h.fds = append(h.fds, h.own...)
	return h, nil
}

// sendFiles sends the files of a command over the control connection, before
// anything else. The child takes them from there; see takeFiles.
func sendFiles(control int, files []*os.File) error {
	if len(files) == 0 {
		return nil
	}
	fds, err := osproc.Descriptors(files)
	if err == nil {
		err = os.NewSyscallError("sendmsg",
			unix.Sendmsg(control, []byte{0}, unix.UnixRights(fds...), nil, 0))
	}
	runtime.KeepAlive(files)
	return err
}

// pairs returns the parent's and the child's ends of two socket pairs.
func pairs() (near, far [2]int, err error) {
	for i := range near {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			closeAll(near[:i])
			closeAll(far[:i])
			return near, far, os.NewSyscallError("socketpair", err)
		}
		near[i], far[i] = fds[0], fds[1]
	}
	return near, far, nil
}

// connections makes connections of the parent's ends. It takes them over.
func connections(near [2]int) (conns [2]net.Conn, err error) {
	for i, fd := range near {
		file := os.NewFile(uintptr(fd), "socketpair")
		conn, connErr := net.FileConn(file) // with a descriptor of its own
		file.Close()
		if connErr != nil {
			err = connErr
			continue
		}
		conns[i] = conn
	}
	if err != nil {
		for _, conn := range conns {
			if conn != nil {
				conn.Close()
			}
		}
	}
	return conns, err
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

// openDirWithin is openDir, until ctx ends. A directory on a file system that does
// not answer is closed when the kernel lets go of it.
func openDirWithin(ctx context.Context, dir string) (int, error) {
	if dir == "" {
		return openDir(dir)
	}
	var fd int
	var err error
	opened := make(chan struct{})
	go func() {
		fd, err = openDir(dir)
		close(opened)
	}()
	select {
	case <-opened:
		return fd, err
	case <-ctx.Done():
		go func() {
			if <-opened; err == nil {
				unix.Close(fd)
			}
		}()
		return -1, osproc.Unanswered("the directory "+dir, wait.Cause(ctx))
	}
}

// openDir opens a child's working directory; "" is this process's own.
func openDir(dir string) (int, error) {
	path := dir
	if path == "" {
		path = "."
	}
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err == nil && dir != "" {
		if err = unix.Faccessat(fd, ".", unix.X_OK, 0); err != nil {
			unix.Close(fd)
		}
	}
	if err != nil {
		return -1, &fs.PathError{Op: "chdir", Path: path, Err: err}
	}
	return fd, nil
}
