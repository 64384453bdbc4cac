package forkspawn

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"syscall"

	"github.com/spawnwire/spawnwire/forkspawn/internal/capture"
	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/internal/monotime"
	"github.com/spawnwire/spawnwire/internal/wait"
	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
)

// errNoCommand is the cause if a program is given to MethodInProcess.
var errNoCommand = errors.New(
	`the start method "inprocess" runs a registered entry, and no command`)

// launchLocal is launch for MethodInProcess.
func (a *attempt) launchLocal(ticket handshake.Ticket) (Process, capture.Streams, error) {
	switch {
	case a.cmd.Path != "" || a.cmd.Args != nil || a.cmd.Env != nil || a.cmd.Launcher != nil ||
		len(a.cmd.Files) > 0 || a.cmd.Sys != nil:
		return nil, capture.Streams{}, errNoCommand
	case a.spec.Dir != "":
		return nil, capture.Streams{}, &spawnspec.FieldError{
			Field: "dir", Err: errors.New(
				`the start method "inprocess" has no directory of its own`),
		}
	}
	var attr ProcessAttr
	st, err := a.openStreams(&attr)
	if err != nil {
		return nil, capture.Streams{}, err
	}
	p := &localProcess{done: make(chan struct{})}
	if a.cmd.Connections {
		far, err := openConns(&attr, connsName, &a.conns)
		if err != nil {
			st.Started()
			st.End()
			st.Close()
			return nil, capture.Streams{}, err
		}
		p.files = map[string]*os.File{connsName: far}
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	pipes := st.TakeChildEnds() // the goroutine closes them
	st.Run()
	go func() {
		defer close(p.done)
		defer p.cancel()
		defer func() {
			for _, f := range pipes {
				f.Close()
			}
		}()
		stderr := io.Discard
		if attr.Stderr != nil {
			stderr = attr.Stderr
		}
		p.run(ticket, a.s.local.Dial, stderr)
	}()
	return p, st, nil
}

// localProcess is an entry in a goroutine. It implements Process.
type localProcess struct {
	files  map[string]*os.File
	ctx    context.Context // ends the joining
	cancel context.CancelFunc
	done   chan struct{} // closed when the goroutine has ended, after status is set
	status ExitStatus

	mu     sync.Mutex // guards what follows; never held over input, output or a wait
	parent *Parent    // nil until the entry has joined
	signal syscall.Signal
}

// run runs the entry. As in a process, an error gives status 1, and a panic gives
// status 2 and a trace on stderr.
func (p *localProcess) run(
	ticket handshake.Ticket, dial func(context.Context) (net.Conn, error), stderr io.Writer,
) {
	returned := false
	status := ExitedStatus(0)
	defer func() { // runtime.Goexit runs this, too
		what := recover()
		if !returned {
			if what == nil {
				what = "runtime.Goexit called"
			}
			fmt.Fprintf(stderr, "panic: %v\n\n%s", what, debug.Stack())
			p.cut()
			status = ExitedStatus(2)
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.signal != 0 {
			status = KilledStatus(p.signal, false)
		}
		p.status = status
	}()
	parent, run, err := joinEntry(p.ctx, ticket, joining{
		cfg: JoinConfig{OnParentGone: func() {}}, init: monotime.Init,
		main: monotime.Now(), dial: dial, files: p.files,
	})
	if err == nil {
		p.joined(parent)
		err = parent.live(run)
	}
	returned = true
	if err != nil {
		fmt.Fprintln(stderr, err)
		status = ExitedStatus(exitFailure)
	}
}

// joined sets the parent. From now on a signal acts on it.
func (p *localProcess) joined(parent *Parent) {
	p.mu.Lock()
	p.parent = parent
	sig := p.signal
	p.mu.Unlock()
	if sig != 0 { // it came during the joining
		parent.force(sig)
	}
}

// force is the effect of a signal on an entry in this process.
func (p *Parent) force(sig syscall.Signal) {
	p.cancel(&CancelError{Reason: sig.String()})
	p.joined.Channel.Abort()
}

// cut closes the entry's connections, as the end of a process does.
func (p *localProcess) cut() {
	p.mu.Lock()
	parent := p.parent
	p.mu.Unlock()
	if parent != nil {
		parent.close()
		parent.stopAttach()
		parent.joined.Channel.Abort()
		parent.cancel(transport.ErrChannelClosed)
		parent.watch.Wait()
	}
}

// PID returns 0: there is no process.
func (p *localProcess) PID() int { return 0 }

// Wait waits for the goroutine's end.
func (p *localProcess) Wait() ExitStatus {
	<-p.done
	return p.status
}

// Signal ends the entry's context and closes its connection for SIGINT, SIGTERM
// and SIGKILL. It does nothing for 0 and SIGCONT, and returns an error for every
// other signal.
func (p *localProcess) Signal(sig syscall.Signal) error {
	if wait.Closed(p.done) {
		return os.ErrProcessDone
	}
	switch sig {
	case syscall.SIGINT, syscall.SIGTERM, sigkill:
	case 0, sigcont:
		return nil
	default:
		return fmt.Errorf("forkspawn: signal %v to an entry in this process: %w",
			sig, errors.ErrUnsupported)
	}
	p.mu.Lock()
	p.signal = sig
	parent := p.parent
	p.mu.Unlock()
	p.cancel()
	if parent != nil {
		parent.force(sig)
	}
	return nil
}

// SignalGroup is Signal, because an entry has no process group.
func (p *localProcess) SignalGroup(sig syscall.Signal) error { return p.Signal(sig) }
