package forkspawn

// The control connection as the child sees it. The parent's end is in package
// handshake.

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spawnwire/spawnwire/forkspawn/internal/capture"
	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/internal/access"
	"github.com/spawnwire/spawnwire/internal/frame"
	"github.com/spawnwire/spawnwire/internal/inspect"
	"github.com/spawnwire/spawnwire/internal/network"
	"github.com/spawnwire/spawnwire/internal/wait"
	"github.com/spawnwire/spawnwire/transport"
)

const (
	// attachBound is how long the start of an entry waits for the control
	// connection. Only a parent that is flooded with connections needs so long.
	attachBound = 2 * time.Second
	// minAttachPause and maxAttachPause bound the pause between two attempts.
	// It doubles with each attempt.
	minAttachPause = 50 * time.Millisecond
	maxAttachPause = 2 * time.Second
	// endInterval is the time between two looks at the end of the message channel.
	// The child may never receive.
	endInterval = 200 * time.Millisecond
)

// beginControl opens the control connection and starts its goroutine. The child is
// ready already, so Spawn does not wait for it.
//
// The entry runs afterwards, because it may confine itself. After a chroot a dial
// fails, and under a seccomp filter it may even kill the process.
func (p *Parent) beginControl() {
	var ch *transport.Channel
	err := errNoControl
	if p.control == nil && p.joined.Control() {
		ctx, cancel := context.WithTimeout(p.attaching, attachBound)
		ch, err = p.attach(ctx)
		cancel()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed { // the caller may not have waited for Ready
		if ch != nil {
			ch.Abort()
		}
		return
	}
	p.watch.Go(func() {
		if p.control != nil {
			ch, err = p.ownControl()
		} else {
			ch, err = p.awaitControl(ch, err)
		}
		if err == nil && p.obey(ch) != nil {
			p.parentGone()
		}
	})
}

var errNoControl = errors.New("no control connection was agreed on")

// awaitControl returns ch, or tries again if err says that it may succeed later.
// Without a control connection it watches the end of the message channel until
// Close, and returns an error.
func (p *Parent) awaitControl(ch *transport.Channel, err error) (*transport.Channel, error) {
	pause := minAttachPause
	for err != nil {
		again := canAttachLater(err)
		if !again {
			pause = endInterval
		}
		if !p.stays(pause) {
			return nil, err
		}
		if again {
			pause = min(2*pause, maxAttachPause)
			ch, err = p.attach(p.attaching)
		}
	}
	return ch, nil
}

// stays pauses. It returns false after Close, and when the message channel has ended,
// because the parent is gone then.
func (p *Parent) stays(pause time.Duration) bool {
	if wait.For(context.Background(), p.open.Done(), pause) {
		return false
	}
	if network.Ended(p.joined.Channel.NetConn()) {
		p.parentGone()
		return false
	}
	return true
}

// canAttachLater reports whether another try may succeed: descriptors are scarce,
// or the parent is flooded with connections and has not answered.
func canAttachLater(err error) bool {
	var scarce *ResourceError
	return errors.As(err, &scarce) || errors.Is(err, context.DeadlineExceeded) ||
		errors.Is(err, transport.ErrPeerGone)
}

// ownControl returns the control connection of a process that was started with one.
// It retries while descriptors are lacking, until Close.
func (p *Parent) ownControl() (*transport.Channel, error) {
	for {
		conn, err := p.control()
		if err == nil {
			return transport.New(conn, transport.Config{MaxFrameSize: access.PreAuthLimit}), nil
		}
		if wait.For(context.Background(), p.open.Done(), minAttachPause) {
			return nil, err
		}
	}
}

// attach opens the control connection.
func (p *Parent) attach(ctx context.Context) (*transport.Channel, error) {
	conn, err := p.dial(ctx)
	if err != nil {
		return nil, err
	}
	ch, err := p.joined.AttachControl(ctx, conn)
	if err == nil {
		ch.Frames(access.Key{}).SetDeadAfter(p.spec.DeadAfter)
	}
	return ch, err
}

// obey handles the parent's requests on the control connection. It returns nil
// after a goodbye of either side, and an error if the connection was cut.
func (p *Parent) obey(ch *transport.Channel) error {
	defer ch.Abort()
	var questions *inspect.Server
	for {
		f, err := ch.Frames(access.Key{}).Read(p.open)
		switch {
		case err != nil && p.open.Err() != nil: // Close
			p.farewell(ch)
			return nil
		case errors.Is(err, transport.ErrPeerGone):
			return err
		case err != nil:
			p.cancel(fmt.Errorf("forkspawn: control connection: %w", err))
			return nil
		}
		switch {
		case f.Kind == frame.KindCancel:
			c, _ := frame.ParseCancel(f.Body) // a malformed request is a request, too
			p.asked(handshake.Cancel(c))
		case f.Kind == frame.KindPing && len(f.Body) <= frame.MaxPing:
			p.pong(ch, f.Body)
		case f.Kind == frame.KindInspect:
			if questions == nil {
				questions = p.inspected(ch)
			}
			questions.Handle(f.Body)
		case f.Kind == frame.KindGoodbye:
			p.cancel(&CancelError{Reason: "the parent closed the connection"})
			return nil
		default:
			p.cancel(fmt.Errorf("forkspawn: control connection: %w: a %s frame",
				transport.ErrProtocol, f.Kind))
			return nil
		}
	}
}

// pong answers a ping. A parent that does not read the answers gets none.
func (p *Parent) pong(control *transport.Channel, ping []byte) {
	ctx, cancel := context.WithTimeout(p.open, farewellBound)
	defer cancel()
	control.Frames(access.Key{}).Write(ctx, frame.Frame{Kind: frame.KindPong, Body: ping})
}

// farewell sends the goodbye of Close on the control connection, too. The parent
// reads the goodbye there when it is not receiving messages, or cannot get the
// child's exit status.
func (p *Parent) farewell(control *transport.Channel) {
	ctx, cancel := context.WithTimeout(context.Background(), farewellBound)
	defer cancel()
	p.mu.Lock()
	closed, status, reason := p.closed, p.status, p.reason
	p.mu.Unlock()
	if closed {
		bye := frame.Goodbye{Status: status, Reason: reason}
		control.Frames(access.Key{}).Write(ctx, bye.Frame()) // the parent need not read it now
	}
}

// asked ends the context on a request of the parent. If there are several
// requests, the one with the earliest end of its grace is kept.
func (p *Parent) asked(c handshake.Cancel) {
	now := time.Now()
	p.mu.Lock()
	sooner := c.Grace > 0 && (p.grace == 0 || now.Add(c.Grace).Before(p.askedAt.Add(p.grace)))
	if p.askedAt.IsZero() || sooner {
		p.askedAt, p.grace = now, c.Grace
		close(p.askedToStop)
		p.askedToStop = make(chan struct{})
	}
	p.mu.Unlock()
	p.cancel(&CancelError{Reason: c.Reason, Grace: c.Grace})
}

// stopRequest returns when the parent asked this process to stop, and its grace. If
// it has not asked, at is zero. If the grace is unknown, it is 0. The channel is
// closed when this changes.
func (p *Parent) stopRequest() (at time.Time, grace time.Duration, changed <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.askedAt, p.grace, p.askedToStop
}

// orphanGrace is the time from the parent's death to the exit of the process. On
// Linux the kernel usually kills the process before (PR_SET_PDEATHSIG).
const orphanGrace = 250 * time.Millisecond

// parentGone ends the context and then the process, because nobody else would end
// an orphan.
func (p *Parent) parentGone() {
	if p.open.Err() == nil {
		p.orphan()
	}
}

// orphan ends the process, once.
func (p *Parent) orphan() {
	p.orphaned.Do(func() {
		p.cancel(ErrParentGone)
		if p.cfg.OnParentGone != nil {
			capture.ReplaceBroken()
			go p.cfg.OnParentGone() // it may call Close, which waits for this goroutine
			return
		}
		time.AfterFunc(orphanGrace, func() { os.Exit(exitOrphan) })
	})
}
