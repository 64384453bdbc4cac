package forkspawn

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/transport/uds"
)

// canFork tells whether this platform can have MethodForkserver. Whether this very program and machine can, a template finds out.
const canFork = true

// forkserver has the template of a Spawner with MethodForkserver. Its methods may be called concurrently; those of a nil
// forkserver do nothing.
type forkserver struct {
	s    *Spawner
	turn chan struct{}  // holds one value while a child is being forked: a template does one thing at a time
	runs sync.WaitGroup // goroutines that start a template; all have begun before closed is set

	mu      sync.Mutex // guards what follows; never held over input, output or a wait
	closed  bool
	current *template       // the last that was started, or nil
	without error           // why children are executed instead, for good; see Config.ForkserverFallback
	own     map[int]Process // what was started from the launcher's thread, or forked, and is not reaped
}

func newForkserver(s *Spawner) *forkserver {
	return &forkserver{s: s, turn: make(chan struct{}, 1), own: make(map[int]Process)}
}

// serves tells whether children of a command are forked.
func (f *forkserver) serves(cmd *Command) bool {
	if f == nil {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	own := &f.s.cfg.Command
	return f.without == nil && cmd.Path == own.Path && slices.Equal(cmd.Args, own.Args)
}

// ready waits for a template, where children of a command are forked, and tells whether they are.
func (f *forkserver) ready(ctx context.Context, cmd *Command) (bool, error) {
	if !f.serves(cmd) {
		return false, nil
	}
	_, err := f.get(ctx)
	if err != nil && f.fallBack(err) {
		return false, nil
	}
	return true, err
}

// fallBack reports whether children are to be executed because of err, and says so in the log, once.
func (f *forkserver) fallBack(err error) bool {
	var refused *MethodError
	if !f.s.cfg.ForkserverFallback || !errors.As(err, &refused) {
		return false
	}
	f.mu.Lock()
	first := f.without == nil
	f.without = err
	f.mu.Unlock()
	if first {
		f.s.cfg.Logger.Warn("forkspawn: children are executed, as they cannot be forked", "error", err)
	}
	return true
}

// started notes a process that was started from the launcher's thread. It is called in that thread.
func (f *forkserver) started(p Process) {
	if f != nil {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.own[p.PID()] = p
	}
}

// reaped forgets it.
func (f *forkserver) reaped(p Process) {
	if f == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.own[p.PID()] == p {
		delete(f.own, p.PID())
	}
}

// close ends the template. Children that it has forked live on.
func (f *forkserver) close() {
	if f == nil {
		return
	}
	f.mu.Lock()
	f.closed = true
	current := f.current
	f.mu.Unlock()
	if current != nil {
		current.kill()
	}
}

// wait waits until no template is being started. Their ends are among the Spawner's reaps.
func (f *forkserver) wait() {
	if f != nil {
		f.runs.Wait()
	}
}

// get returns a template that is ready, and starts one if there is none.
func (f *forkserver) get(ctx context.Context) (*template, error) {
	f.mu.Lock()
	t := f.current
	var replaced string
	switch {
	case f.closed:
		f.mu.Unlock()
		return nil, ErrClosed
	case t == nil || t.useless():
		if t != nil {
			replaced = t.failing()
			t.kill()
		}
		t = &template{f: f, ready: make(chan struct{}), gone: make(chan struct{}), quit: make(chan struct{}), may: currentCredentials()}
		f.current = t
		f.runs.Go(t.run)
	}
	f.mu.Unlock()
	if replaced != "" {
		f.s.cfg.Logger.Warn("forkspawn: another template is started", "reason", replaced)
	}
	select {
	case <-t.ready:
		return t, t.err
	case <-ctx.Done():
		return nil, fmt.Errorf("the template is not ready: %w", contextError(ctx))
	}
}

// fork has a child forked. Once asked, the template is waited for, for forkBound at most: what it has forked must not be forgotten.
// With serve the child has its connections from the start: serve is called, at most once, with this process's ends of two
// pairs, and must not wait.
func (f *forkserver) fork(ctx context.Context, attr *ProcessAttr, serve func(message, control net.Conn)) (Process, error) {
	files, release, err := startFiles(attr)
	if err != nil {
		return nil, noNullDevice(err)
	}
	defer release()
	fds := make([]int, 0, connectedFiles)
	for _, file := range files {
		fd := int(file.Fd())
		if fd < 0 {
			return nil, &fs.PathError{Op: "start", Path: file.Name(), Err: os.ErrClosed}
		}
		fds = append(fds, fd)
	}
	var own []int // fds that are to be closed here
	begin := func() error { return nil }
	sent := sync.OnceValue(func() error {
		closeAll(own) // so that nobody but the child has its ends
		return begin()
	})
	defer sent()
	dir, err := openDir(attr.Dir)
	if err != nil {
		return nil, explainStart(err)
	}
	own = append(own, dir)
	if serve != nil {
		near, far, err := pairs()
		if err != nil {
			return nil, explainScarcity(err)
		}
		own = append(own, far[:]...)
		begin = func() error { // while the template forks
			conns, err := connections(near)
			if err == nil {
				serve(conns[0], conns[1])
			}
			return explainScarcity(err)
		}
	}
	fds = append(fds, own...)
	env := attr.Env
	if env == nil {
		env = os.Environ()
	}
	request := forkRequest{
		ownGroup: attr.OwnGroup, deathSignal: attr.ParentDeathSignal, connected: serve != nil, spare: attr.spare,
		ticket: attr.ticket[len(handshake.TicketEnv)+1:], env: lastOfEach(env),
	}
	message := request.encode()
	defer clear(message)
	if len(message) > maxTemplateMessage {
		return nil, &fs.PathError{Op: "fork", Path: "environment", Err: syscall.E2BIG}
	}

	select {
	case f.turn <- struct{}{}:
		defer func() { <-f.turn }()
	case <-ctx.Done():
		return nil, contextError(ctx)
	}
	t, err := f.get(ctx)
	if err != nil {
		return nil, err
	}
	p, err := f.s.reaper.started(func() (Process, error) { return t.fork(message, fds, attr.OwnGroup, sent) })
	if err != nil && f.s.ctx.Err() != nil {
		err = ErrClosed
	}
	return p, err
}

// pairs returns the near and far ends of two socket pairs.
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

// connections makes connections of the near ends. It takes them over.
func connections(near [2]int) (conns [2]net.Conn, err error) {
	for i, fd := range near {
		file := os.NewFile(uintptr(fd), "socketpair")
		conn, ferr := net.FileConn(file) // with a descriptor of its own
		file.Close()
		if ferr != nil {
			err = ferr
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

// template is a process that forks children.
type template struct {
	f     *forkserver
	ready chan struct{} // closed when it waits for requests, or err is set
	err   error
	may   credentials // of this process when it was started, and so its children's

	// From when the process runs, which is before ready is closed.
	id      string
	proc    *OSProcess
	streams streams
	conn    *net.UnixConn

	quitOnce sync.Once
	quit     chan struct{} // closed by kill
	gone     chan struct{} // closed when the process has ended, after status is set
	status   ExitStatus
}

// Bounds of the wait for a template.
const (
	forkBound    = 10 * time.Second       // for a child: a fork gives up after 4 seconds
	templateLook = 250 * time.Millisecond // between looks whether it is stopped
)

// The ways in which a template fails that has not said anything.
var (
	errTemplateEnded   = errors.New("it has ended")
	errTemplateStopped = errors.New("it is stopped (SIGSTOP)")
	errTemplateStuck   = errors.New("it does not answer")
)

// useless tells whether another one must be started.
func (t *template) useless() bool { return isClosed(t.ready) && (t.err != nil || t.failing() != "") }

// failing says why a template that was ready can fork no more, or must not; "" when it can.
func (t *template) failing() string {
	switch {
	case t.err != nil:
		return "" // as it has never been ready, and its Spawns know
	case isClosed(t.gone):
		return fmt.Sprintf("template (pid %d): %v: %v", t.proc.PID(), errTemplateEnded, t.status)
	case isClosed(t.quit) || !t.proc.runs():
		return fmt.Sprintf("template (pid %d): it has ended, or is stopped", t.proc.PID())
	}
	now := currentCredentials()
	if changed := t.may.differ(&now); changed != "" {
		return fmt.Sprintf("template (pid %d): this process's %s changed since it was started", t.proc.PID(), changed)
	}
	return ""
}

// kill ends the process, or has it end as soon as it runs. It does not wait.
func (t *template) kill() { t.quitOnce.Do(func() { close(t.quit) }) }

// run starts the process and waits until it is ready.
func (t *template) run() {
	defer close(t.ready)
	defer func() {
		if t.err != nil && t.f.s.ctx.Err() != nil {
			t.err = ErrClosed
		}
	}()
	if t.err = t.start(); t.err != nil {
		return
	}
	limit := t.f.s.cfg.WarmUpTimeout
	deadline := time.Now().Add(limit)
	news, _, err := t.receive(deadline)
	for err == nil && news.kind == newsRehearse {
		if err = t.rehearse(deadline); err == nil {
			news, _, err = t.receive(deadline)
		}
	}
	switch {
	case err == errTemplateStuck:
		err = fmt.Errorf("it has not warmed up within %v (Config.WarmUpTimeout)", limit)
	case err != nil:
	case news.kind == newsReady:
		return
	case news.kind == newsRefused:
		t.end(nil)
		t.err = &MethodError{
			MethodForkserver,
			&bothErrors{fmt.Errorf("%w: %s", ErrMethodUnavailable, news.reason), errors.ErrUnsupported},
			cmp.Or(news.remedy, useExec),
		}
		return
	case news.kind == newsFailed:
		err = news.err()
	default:
		err = errTemplateMessage
	}
	t.err = t.end(err)
}

// start starts the process, from the launcher's thread: so the children, which the kernel takes for that thread's, get
// their parent-death signal when that ends.
func (t *template) start() error {
	s := t.f.s
	near, far, err := uds.Pair()
	if err != nil {
		return explainScarcity(err)
	}
	defer far.Close()
	stdin, err := far.(*net.UnixConn).File()
	if err != nil {
		near.Close()
		return explainScarcity(err)
	}
	defer stdin.Close()
	t.id = handshake.NewID()
	cmd := s.cfg.Command
	if s.cfg.Subreaper {
		cmd.Env = s.reaper.mark(t.id, cmd)
	}
	cmd.Env = append(without(without(cmd.Env, handshake.TicketEnv), templateEnv), t.mark())
	attr := ProcessAttr{Command: cmd, Stdin: stdin, OwnGroup: true, ParentDeathSignal: sigkill}
	t.streams, err = openStreams(&s.cfg, &attr)
	if err != nil {
		near.Close()
		return err
	}
	_, err = s.thread.do(s.ctx, func() (Process, error) {
		return s.reaper.started(func() (Process, error) {
			p, err := StartProcess(attr)
			if err != nil {
				return nil, err
			}
			t.proc = p
			t.f.started(p)
			return p, nil
		})
	})
	t.streams.started()
	if err != nil {
		near.Close()
		t.streams.end()
		return err
	}
	t.conn = near.(*net.UnixConn)
	s.reaps.Go(t.reap)
	s.reaps.Go(func() {
		select {
		case <-t.quit:
			t.proc.Signal(sigkill, true)
			t.conn.CloseWrite() // it ends by that too, if it may not be killed as this process has dropped its privileges
		case <-t.gone:
		}
	})
	return nil
}

// reap waits for the process's end.
func (t *template) reap() {
	t.status = t.proc.Wait()
	t.f.reaped(t.proc)
	t.streams.settle()
	t.f.s.reaper.ended(t.proc.PID(), t.id)
	close(t.gone)
	t.conn.CloseRead() // what it has said can be read still, whoever has its end
	t.streams.end()
	<-t.ready
	t.f.turn <- struct{}{} // nobody reads any more
	t.conn.Close()
	<-t.f.turn
}

// end ends the process and makes the error of it.
func (t *template) end(cause error) error {
	died := cause == errTemplateEnded && awaitClosed(t.f.s.ctx, t.gone, dyingBound)
	if !died {
		// One that has said why it cannot go on is about to exit.
		t.kill()
	}
	e := &TemplateError{PID: t.proc.PID(), Err: cause}
	if !awaitClosed(context.Background(), t.gone, killBound) {
		e.Err = fmt.Errorf("%w; %w", cause, errUnkillable)
	} else if died {
		e.Status = t.status
	}
	if t.streams.stderr != nil {
		e.Stderr = t.streams.stderr.lastBytes()
	}
	return e
}

// fork has the template fork a child. The caller has the turn. After an error that is a [*TemplateError] the template has
// ended, and nothing of the child is left. sent is called when the template has the descriptors, or will not get them; with an
// error of it there is no child.
func (t *template) fork(message []byte, fds []int, ownGroup bool, sent func() error) (Process, error) {
	deadline := time.Now().Add(forkBound)
	var news templateNews
	pidfd := -1
	err := t.send(message, fds, deadline)
	unserved := sent()
	if err == nil {
		news, pidfd, err = t.receive(deadline)
	}
	switch {
	case err != nil:
	case news.kind == newsForked && news.pid > 0:
		if ownGroup {
			syscall.Setpgid(news.pid, news.pid) // the child does so too: whoever comes first
		}
		p := &OSProcess{pid: news.pid, ownGroup: ownGroup, handle: newHandle(news.pid, pidfd)}
		if unserved != nil {
			p.Signal(sigkill, ownGroup)
			p.Wait()
			return nil, unserved
		}
		t.f.started(p)
		return p, nil
	case news.kind == newsNotForked:
		return nil, &TemplateError{PID: t.proc.PID(), Err: news.err()} // and it goes on
	default:
		err = errTemplateMessage
	}
	err = t.end(err)
	t.endUnknown()
	return nil, err
}

// endUnknown ends a child that the template had forked when it died, before it could tell of it. The child has the
// template's environment, as far as the kernel knows, and maybe its process group still. It is looked for between the starts of other processes.
func (t *template) endUnknown() {
	t.f.s.thread.do(context.Background(), func() (Process, error) {
		pids, _ := ownChildren() // an error is a kernel without CONFIG_PROC_CHILDREN
		for _, pid := range pids {
			t.f.mu.Lock()
			_, known := t.f.own[pid]
			t.f.mu.Unlock()
			if known {
				continue
			}
			group, _, _ := kinship(pid)
			environ, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
			if group == t.proc.PID() || bytes.Contains(environ, []byte(t.mark())) {
				syscall.Kill(pid, sigkill) // a child of this process: nobody else can have the number
				waitid(unix.P_PID, pid, new(unix.Siginfo), unix.WEXITED)
			}
		}
		return nil, nil
	})
}

// mark is what the template's environment has, and its children's.
func (t *template) mark() string { return templateEnv + "=" + t.id + " " + t.f.s.cfg.WarmUp }

func (t *template) send(message []byte, fds []int, deadline time.Time) error {
	t.conn.SetWriteDeadline(deadline)
	n, _, err := t.conn.WriteMsgUnix(message, unix.UnixRights(fds...), nil)
	for rest := message[n:]; err == nil && len(rest) > 0; rest = rest[n:] {
		n, err = t.conn.Write(rest)
	}
	return t.explain(err)
}

// receive waits for news, until the deadline, or until the template is seen to be stopped.
func (t *template) receive(deadline time.Time) (news templateNews, pidfd int, err error) {
	pidfd = -1
	defer func() {
		if err != nil && pidfd >= 0 {
			unix.Close(pidfd)
			pidfd = -1
		}
	}()
	oob := make([]byte, unix.CmsgSpace(4))
	first := func(b []byte) (int, error) {
		n, oobn, _, _, err := t.conn.ReadMsgUnix(b, oob)
		if fds, _ := receivedFiles(oob[:oobn]); len(fds) == 1 {
			pidfd = fds[0]
		}
		return n, err
	}
	b := make([]byte, 256)
	n, err := t.read(b, 4, deadline, first)
	if err != nil {
		return news, pidfd, err
	}
	size := 4 + int(binary.LittleEndian.Uint32(b))
	switch {
	case size > maxTemplateMessage || n > size:
		return news, pidfd, errTemplateMessage
	case n < size:
		b = append(b[:n], make([]byte, size-n)...)
		if _, err = t.read(b[n:], size-n, deadline, t.conn.Read); err != nil {
			return news, pidfd, err
		}
	}
	news, err = decodeTemplateNews(b[4:size])
	return news, pidfd, err
}

// receivedFiles returns the descriptors of a message (SCM_RIGHTS in unix(7)).
func receivedFiles(oob []byte) ([]int, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, os.NewSyscallError("recvmsg", err)
	}
	var fds []int
	for _, m := range messages {
		if list, err := unix.ParseUnixRights(&m); err == nil {
			fds = append(fds, list...)
		}
	}
	return fds, nil
}

// read reads least bytes, and more if they are there, and looks from time to time whether the template is stopped.
func (t *template) read(b []byte, least int, deadline time.Time, read func([]byte) (int, error)) (n int, err error) {
	stopped := false
	for n < least {
		t.conn.SetReadDeadline(time.Now().Add(templateLook))
		more, err := read(b[n:])
		n += max(more, 0)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded) && (time.Now().Before(deadline) || t.f.s.cfg.WaitForDebugger && traced(t.proc.PID())):
			was := stopped
			if stopped = !t.proc.runs(); stopped && was && !isClosed(t.gone) {
				return n, errTemplateStopped
			}
		case err != nil:
			return n, t.explain(err)
		case more == 0:
			return n, errTemplateEnded
		}
	}
	return n, nil
}

// explain makes the end of the stream the end of the process.
func (t *template) explain(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, io.EOF), errors.Is(err, syscall.EPIPE), errors.Is(err, syscall.ECONNRESET), errors.Is(err, net.ErrClosed):
		return errTemplateEnded
	case errors.Is(err, os.ErrDeadlineExceeded):
		return errTemplateStuck
	}
	return err
}
