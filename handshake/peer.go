package handshake

import (
	"context"
	"sync"

	"github.com/spawnwire/spawnwire/transport"
)

// Peer is a process that has proved who it is. Its Channel carries messages; its methods may be
// called concurrently. Close or Abort ends it.
type Peer struct {
	Channel *transport.Channel
	Identity
	Version uint    // of the protocol
	Timings Timings // of a spawned child's start, as far as it told them

	l       *Listener          // that accepted it; nil for a peer that nobody spawned
	process *process           // that its control connection must come from; nil when it does not matter
	attach  chan struct{}      // closed when the control connection is there; nil when there will be none
	given   *transport.Channel // that control connection, if it was there from the start; nobody reads it before the child is ready

	mu      sync.Mutex // guards what follows; never held over input or output
	session *Secret    // keys the control connection; wiped, and nil, when it is there, or there will be none
	control *transport.Channel
	cancel  *transport.Cancel // asked for before the control connection was there
	closed  bool
}

// Cancel asks the peer to stop. It goes over the control connection when the peer has one, and so
// reaches it also while it is busy, or has messages queued, or a Send to it is blocked; else over the
// Channel, in its turn. It returns when the kernel has it, or ctx ends.
func (p *Peer) Cancel(ctx context.Context, c transport.Cancel) error {
	p.mu.Lock()
	p.cancel = &c
	control := p.control
	p.mu.Unlock()
	if control != nil {
		if err := control.WriteFrames(ctx, c.Frame()); err == nil {
			return nil
		}
	}
	return p.Channel.WriteFrames(ctx, c.Frame())
}

// attachControl takes over the control connection. A cancel that was asked for before is repeated on
// it, as the first one may be queued behind other messages.
func (p *Peer) attachControl(ctx context.Context, ch *transport.Channel) error {
	p.mu.Lock()
	if p.closed || p.control != nil {
		p.mu.Unlock()
		return ErrUnknownPeer
	}
	p.control = ch
	p.wipe()
	close(p.attach)
	cancel := p.cancel
	p.mu.Unlock()
	p.l.forgetSession(p)
	if cancel != nil {
		ch.WriteFrames(ctx, cancel.Frame())
	}
	return nil
}

// LastWords returns the goodbye that the peer said on its control connection, or nil when it said none: what it has
// to say of its own end, also when nobody receives from its Channel. It is meant for a peer whose process has ended, and waits
// for nothing but this process's own goroutines, until ctx ends; 20 ms at most for a connection on which
// there is nothing to read, as somebody else keeps it open, and as long before that for those that have not said whose they
// are. Close and Abort end it.
func (p *Peer) LastWords(ctx context.Context) *transport.GoodbyeError {
	if p.attach == nil {
		return nil
	}
	select {
	case <-p.attach:
	default:
		pid := 0
		if p.process != nil {
			pid = p.process.pid
		}
		p.l.hearQueued(ctx, pid)
	}
	looking, cancel := context.WithTimeout(ctx, lookBound)
	defer cancel()
	p.mu.Lock()
	control := p.control
	p.mu.Unlock()
	for control != nil {
		wait := looking
		if unread(control.NetConn()) {
			wait = ctx
		}
		f, err := control.ReadFrame(wait)
		if err != nil {
			return nil
		}
		if f.Kind == transport.KindGoodbye {
			bye, err := transport.ParseGoodbye(f.Body)
			if err != nil {
				return nil
			}
			return bye
		}
	}
	return nil
}

// Close says goodbye and closes the peer's connections. It takes at most a second or two; see
// transport.Channel.Close. The errors are those of the Channel.
func (p *Peer) Close() error {
	if control := p.end(); control != nil {
		control.Close()
	}
	return p.Channel.Close()
}

// Abort closes the peer's connections at once, with no goodbye.
func (p *Peer) Abort() error {
	if control := p.end(); control != nil {
		control.Abort()
	}
	return p.Channel.Abort()
}

func (p *Peer) end() (control *transport.Channel) {
	if p.l != nil {
		p.l.forgetSession(p)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.wipe()
	if p.control == nil {
		return p.given
	}
	return p.control
}

// prove checks a proof with the session's key.
func (p *Peer) prove(check func(key []byte) error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.session == nil {
		return ErrUnknownPeer
	}
	return check(p.session[:])
}

// wipe forgets the session's key. The caller holds p.mu.
func (p *Peer) wipe() {
	p.session.wipe()
	p.session = nil
}
