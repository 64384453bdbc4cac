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

	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/internal/monotime"
	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
	"github.com/spawnwire/spawnwire/transport/uds"
)

// localNet is where entries that run in this process connect: each dial makes a socket pair and gives its
// other end to Accept. It is a net.Listener with no address.
type localNet struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newLocalNet() *localNet {
	return &localNet{conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (n *localNet) dial(ctx context.Context) (net.Conn, error) {
	near, far, err := uds.Pair()
	if err != nil {
		return nil, err
	}
	select {
	case n.conns <- far:
		return near, nil
	case <-n.closed:
		err = transport.ErrPeerGone
	case <-ctx.Done():
		err = contextError(ctx)
	}
	near.Close()
	far.Close()
	return nil, err
}

// Accept returns the other end of the next dial.
func (n *localNet) Accept() (net.Conn, error) {
	select {
	case conn := <-n.conns:
		return conn, nil
	case <-n.closed:
		return nil, net.ErrClosed
	}
}

// Close ends Accept and dial.
func (n *localNet) Close() error {
	n.once.Do(func() { close(n.closed) })
	return nil
}

// Addr returns no address.
func (n *localNet) Addr() net.Addr { return transport.Addr{} }

// errNoCommand is the cause of a boot that names a program where none is started.
var errNoCommand = errors.New(`the start method "inprocess" runs a registered entry, and no command`)

// launchLocal is launch for MethodInProcess.
func (b *boot) launchLocal(ticket handshake.Ticket) (Process, streams, error) {
	switch {
	case b.cmd.Path != "" || b.cmd.Args != nil || b.cmd.Env != nil:
		return nil, streams{}, errNoCommand
	case b.spec.Dir != "":
		return nil, streams{}, &spawnspec.FieldError{Field: "dir", Reason: `the start method "inprocess" has no directory of its own`}
	}
	var attr ProcessAttr
	st, err := openStreams(&b.s.cfg, &attr)
	if err != nil {
		return nil, streams{}, err
	}
	p := &localProcess{done: make(chan struct{})}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	pipes := st.childEnds // the goroutine's to close now
	st.childEnds = nil
	st.run()
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
		p.run(ticket, b.s.local.dial, stderr)
	}()
	return p, st, nil
}

// localProcess is an entry in a goroutine, as a Process.
type localProcess struct {
	ctx    context.Context // of joining
	cancel context.CancelFunc
	done   chan struct{} // closed when the goroutine has ended, after status is set
	status ExitStatus

	mu     sync.Mutex // guards what follows; never held over input, output or a wait
	parent *Parent    // from when the entry has joined
	signal syscall.Signal
}

// run is the life of the entry, and what it would be of a process: an error gives status 1, a panic 2 and a trace on
// stderr.
func (p *localProcess) run(ticket handshake.Ticket, dial func(context.Context) (net.Conn, error), stderr io.Writer) {
	returned := false
	status := Exited(0)
	defer func() { // which also runtime.Goexit runs
		what := recover()
		if !returned {
			if what == nil {
				what = "runtime.Goexit called"
			}
			fmt.Fprintf(stderr, "panic: %v\n\n%s", what, debug.Stack())
			p.cut()
			status = Exited(2)
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.signal != 0 {
			status = Killed(p.signal, false)
		}
		p.status = status
	}()
	parent, run, err := joinEntry(p.ctx, ticket, joining{
		cfg: JoinConfig{OnParentGone: func() {}}, init: monotime.Init, main: monotime.Now(), dial: dial,
	})
	if err == nil {
		p.joined(parent)
		err = parent.live(run)
	}
	returned = true
	if err != nil {
		fmt.Fprintln(stderr, err)
		status = Exited(ExitFailure)
	}
}

// joined notes the parent, which a signal from now on speaks to.
func (p *localProcess) joined(parent *Parent) {
	p.mu.Lock()
	p.parent = parent
	sig := p.signal
	p.mu.Unlock()
	if sig != 0 { // it came while the entry joined
		parent.force(sig)
	}
}

// force is what a signal does to an entry that cannot be killed.
func (p *Parent) force(sig syscall.Signal) {
	p.cancel(&CancelError{Reason: sig.String()})
	p.joined.Channel.Abort()
}

// cut ends the entry's connections as the end of a process would.
func (p *localProcess) cut() {
	p.mu.Lock()
	parent := p.parent
	p.mu.Unlock()
	if parent != nil {
		parent.close()
		parent.stopAttach()
		parent.joined.Channel.Abort()
		parent.cancel(transport.ErrClosed)
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

// Signal does what can be done to a goroutine: SIGINT, SIGTERM and SIGKILL end its context and cut its
// connection. Any other signal is an error, but for 0 and SIGCONT.
func (p *localProcess) Signal(sig syscall.Signal, _ bool) error {
	if isClosed(p.done) {
		return os.ErrProcessDone
	}
	switch sig {
	case syscall.SIGINT, syscall.SIGTERM, sigkill:
	case 0, sigcont:
		return nil
	default:
		return fmt.Errorf("forkspawn: signal %v to an entry in this process: %w", sig, errors.ErrUnsupported)
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
