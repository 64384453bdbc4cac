package handshake

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/spawnwire/spawnwire/internal/access"
	"github.com/spawnwire/spawnwire/internal/frame"
	"github.com/spawnwire/spawnwire/internal/values"
	"github.com/spawnwire/spawnwire/transport"
)

// Identity is how a process presents itself to its peers.
type Identity struct {
	ID   string // unique; 1 to 64 printable ASCII characters
	Name string // for people; at most 256 bytes
	PID  int    // as the process itself sees it
}

// Cancel is a request to stop.
type Cancel struct {
	Reason string // for people

	// Grace is how long the sender waits before it uses force, counted from
	// the arrival of the request. 0 means that the sender set no time.
	Grace time.Duration
}

// newChannel makes the channel of a handshake. onCancel may be nil.
func newChannel(conn net.Conn, onCancel func(Cancel)) *transport.Channel {
	ch := transport.New(conn, transport.Config{MaxFrameSize: access.PreAuthLimit})
	if onCancel != nil {
		frames(ch).OnCancel(func(c frame.Cancel) { onCancel(Cancel(c)) })
	}
	return ch
}

// frames gives access to the single frames of ch.
func frames(ch *transport.Channel) frame.Channel { return ch.Frames(access.Key{}) }

// Peer is a process that has proved its identity. Its Channel carries messages.
// Its methods may be called concurrently. The caller calls Close or Abort in the
// end.
type Peer struct {
	Channel *transport.Channel
	Identity

	l       *Listener // that accepted it; nil for a peer that was not spawned
	process *process  // that its control connection must come from; nil if any may
	session secret    // the key of a control connection that is still to come
	// closed when control is set; nil if there is no control connection
	attached chan struct{}
	// the control connection of a pair; nobody reads it before the child is ready
	pairControl *transport.Channel

	inspects bool // it answers inspections on its control connection

	mu        sync.Mutex // guards what follows; never held over input or output
	attaching bool       // a control connection was accepted
	deadAfter time.Duration
	control   *transport.Channel
	cancel    *Cancel  // requested before the control connection was there
	answers   *answers // of the control connection, or nil
	// Close or Abort of a Channel, after Close or Abort of the Peer
	ended func(*transport.Channel) error

	value []byte // from the child's ready; not changed afterwards
}

// ReadyValue decodes the value that the child has sent with its ready into v, a
// pointer, as [transport.Channel.Recv] decodes a message. If there is none, the
// error matches [ErrNoReadyValue].
func (p *Peer) ReadyValue(v any) error {
	if p.value == nil {
		return fmt.Errorf("handshake: %w", ErrNoReadyValue)
	}
	if err := values.Decode(p.value, v); err != nil {
		return fmt.Errorf("handshake: the value of ready: %w", err)
	}
	return nil
}

// ErrNoReadyValue is the error of [Peer.ReadyValue] when the child has sent no value.
var ErrNoReadyValue = errors.New("the child has sent no value with its ready")

// Cancel asks the peer to stop. It goes over the control connection if the peer
// has one, and so reaches a peer that is busy or has messages queued. Otherwise
// it goes over the Channel, after the messages sent before. Cancel returns when
// the request is written, or when ctx ends.
func (p *Peer) Cancel(ctx context.Context, c Cancel) error {
	p.mu.Lock()
	p.cancel = &c
	control := p.control
	p.mu.Unlock()
	if control != nil {
		if err := frames(control).Write(ctx, frame.Cancel(c).Frame()); err == nil {
			return nil
		}
	}
	return frames(p.Channel).Write(ctx, frame.Cancel(c).Frame())
}

// SetDeadAfter changes the bound on the silence of the peer's machine, for all
// connections of the peer; see DeadAfter in [transport.Config].
func (p *Peer) SetDeadAfter(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.deadAfter = d
	frames(p.Channel).SetDeadAfter(d)
	if p.control != nil {
		frames(p.control).SetDeadAfter(d)
	}
}

// mayAttach reports whether a control connection can be accepted. It returns true
// only once.
func (p *Peer) mayAttach() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended != nil || p.attaching {
		return false
	}
	p.attaching = true
	return true
}

// attachControl sends the answers to an attach and then takes over the control
// connection. It repeats an earlier cancel there, because the first one may be
// queued after other messages.
func (p *Peer) attachControl(ctx context.Context, ch *transport.Channel, answers ...frame.Frame) {
	p.l.removeSession(p)
	// The control connection of a child that is gone may still have its goodbye.
	frames(ch).Write(ctx, answers...)
	p.mu.Lock()
	p.control = ch
	close(p.attached)
	cancel, ended := p.cancel, p.ended
	frames(ch).SetDeadAfter(p.deadAfter)
	p.mu.Unlock()
	if ended != nil {
		ended(ch)
	} else if cancel != nil {
		frames(ch).Write(ctx, frame.Cancel(*cancel).Frame())
	}
}

// Close sends a goodbye and closes the peer's connections. It takes two seconds
// at most; see transport.Channel.Close. It returns the error of the Channel.
func (p *Peer) Close() error {
	if control := p.end((*transport.Channel).Close); control != nil {
		control.Close()
	}
	return p.Channel.Close()
}

// Abort closes the peer's connections at once and sends no goodbye.
func (p *Peer) Abort() error {
	if control := p.end((*transport.Channel).Abort); control != nil {
		control.Abort()
	}
	return p.Channel.Abort()
}

// end returns the control connection for its closing, or nil. how closes one that
// is being attached.
func (p *Peer) end(how func(*transport.Channel) error) *transport.Channel {
	if p.l != nil {
		p.l.removeSession(p)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended == nil {
		p.ended = how
	}
	if p.control == nil {
		return p.pairControl
	}
	return p.control
}
