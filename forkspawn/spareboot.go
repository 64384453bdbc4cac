package forkspawn

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/transport"
)

// runSpare starts a child that waits for its spec, and adds it to the spares.
func (b *boot) runSpare() error {
	if !b.s.begin() {
		return b.fail(handshake.PhaseStart, ErrClosed)
	}
	defer b.s.boots.Done()
	l, release := b.limit(context.Background())
	defer release()
	if err := b.start(l.timed, handshake.Expectation{Reserve: true}); err != nil {
		return b.fail(handshake.PhaseStart, err)
	}
	defer b.watchAccept(l.cancel)()
	peer, err := b.await(l, b.raceWelcome)
	if err != nil {
		defer b.x.Cancel()
		return b.abandon(l.ctx, err)
	}
	b.child.peer = peer
	b.s.spares.add(newSpare(b.child, b.x))
	return nil
}

// raceWelcome is Race for a child that waits for its spec then.
func (b *boot) raceWelcome(ctx context.Context, x *handshake.Expected, gone <-chan struct{}) (*handshake.Peer, error) {
	if b.connected {
		peer, err := b.raceAnswer(ctx, x, gone)
		if waiting := x.Reserved(); waiting != nil {
			return waiting, nil
		}
		return peer, err
	}
	select {
	case <-x.Welcomed():
		if peer := x.Reserved(); peer != nil {
			return peer, nil // if it has died, that is noticed soon enough
		}
	case <-x.Done():
	case <-gone:
	case <-ctx.Done():
	}
	return Race(ctx, x, gone)
}

// raceAnswer is Race for a spare that was given its spec, or a child that was given its connection. It reads the answer itself.
func (b *boot) raceAnswer(ctx context.Context, x *handshake.Expected, gone <-chan struct{}) (*handshake.Peer, error) {
	reading, cancel := context.WithCancel(ctx)
	defer cancel()
	b.child.callWhenGone(cancel)
	x.Answer(reading)
	if !isClosed(x.Done()) && x.Unread() { // it has come further than is known here
		bound := unreadBound
		if isClosed(gone) {
			bound = lastWords
		}
		words, cancel := context.WithTimeout(context.Background(), bound)
		defer cancel()
		x.Answer(words)
	}
	switch {
	case isClosed(x.Done()):
		return x.WaitForPeer(ctx)
	case isClosed(gone):
		return nil, ErrDied
	}
	return nil, contextError(ctx)
}

// unreadBound is how long raceAnswer reads on when its context has ended: what is there takes microseconds.
const unreadBound = 20 * time.Millisecond

// serves tells whether a spare can be what a boot is to start.
func (r *spares) serves(b *boot) bool {
	return r != nil && b.spec.Dir == "" && b.cmd.equal(&r.s.cfg.Command)
}

// giveSpare takes a spare and gives it its orders, or returns false: when there is none, or none that took them.
func (b *boot) giveSpare(ctx context.Context, orders []byte) bool {
	for {
		sp := b.s.spares.take()
		if sp == nil {
			return false
		}
		b.id, b.x, b.child, b.given = sp.id, sp.x, sp.Child, time.Now()
		err := sp.x.Give(ctx, orders)
		if err == nil {
			return true
		}
		b.discardSpare()
		if !errors.Is(err, transport.ErrPeerGone) {
			return false // the start of a process will tell
		}
	}
}

// shortOrders is how many bytes a connection takes without a wait on which nothing but a welcome was sent before.
const shortOrders = 2 << 10

// giveSpareAtOnce is giveSpare before the boot has limits, which nothing waits for. What sets them up is done while the spare
// wakes up.
func (b *boot) giveSpareAtOnce(orders []byte) bool {
	return len(orders) <= shortOrders && b.giveSpare(b.s.ctx, orders)
}

// discardSpare gives up the spare that was taken: it has not read its orders, and will not.
func (b *boot) discardSpare() {
	b.s.spares.discard(&spare{Child: b.child, x: b.x})
	b.id, b.x, b.child, b.given = "", nil, nil, time.Time{}
}

// introduction is how a spare becomes a child that others know of: once, and if its process has ended before, then
// afterwards.
type introduction struct {
	begun atomic.Bool   // or never to begin before the child's end
	done  chan struct{} // closed when it is over
}

func newIntroduction() *introduction { return &introduction{done: make(chan struct{})} }

// begin reports whether the child's end is told after the introduction, as it should be.
func (i *introduction) begin() bool { return i.begun.CompareAndSwap(false, true) }

// close is called before the child's end is told: it waits for an introduction that has begun.
func (i *introduction) close() {
	if i != nil && !i.begin() {
		<-i.done
	}
}

// introduce makes the spare that was taken the child of this boot, and tells of its start.
func (b *boot) introduce(ctx context.Context) {
	c := b.child
	early := c.intro.begin()
	if !early {
		<-c.gone
	}
	c.spec, c.tell, c.onBehalfOf = &b.spec, b.tell, parentOf(ctx)
	event := ChildEvent{b.spec.Name, b.id, c.PID(), b.given}
	b.tell.started(event)
	b.tell.phase(event, handshake.PhaseSpec)
	if b.tell.trace.Phase != nil {
		if at, ok := b.x.Since()[handshake.PhaseReady]; ok {
			event.At = at
			b.tell.phase(event, handshake.PhaseReady)
		}
	}
	if !early {
		b.tell.exited(c.event(), c.status)
	}
	close(c.intro.done)
}
