package forkspawn

import (
	"context"
	"errors"
	"sync/atomic"

	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/internal/access"
	"github.com/spawnwire/spawnwire/transport"
)

// runSpare starts a spare and adds it to the others.
func (b *boot) runSpare() error {
	if !b.s.begin() {
		return b.fail(ErrSpawnerClosed)
	}
	defer b.s.boots.Done()
	limits, release := b.limit(context.Background())
	defer release()
	a, err := b.fromProcess(limits.timed, nil)
	if err != nil {
		return b.fail(err)
	}
	peer, err := a.awaitWelcome(limits)
	if err != nil {
		defer a.expected.Cancel()
		return a.abandon(limits.ctx, err)
	}
	a.child.peer = peer
	b.s.spares.add(newSpare(a.child, a.expected))
	return nil
}

// fromSpare takes a spare and sends spec to it. It returns nil if no spare can
// be used; then the start of a process shows what is wrong.
func (b *boot) fromSpare(ctx context.Context, spec []byte) *attempt {
	if !b.s.spares.serves(b) {
		return nil
	}
	for {
		sp := b.s.spares.take()
		if sp == nil {
			return nil
		}
		a := &attempt{boot: b, id: sp.id, expected: sp.x, child: sp.Child,
			spare: true, began: now()}
		// It may write as soon as it has the spec.
		nameLines(sp.lines, a.event(sp.PID(), a.began.Time))
		err := sp.x.Internal(access.Key{}).SendSpec(ctx, spec)
		if err == nil {
			return a
		}
		a.discard()
		if !errors.Is(err, transport.ErrPeerGone) {
			return nil
		}
	}
}

// discard ends a spare that will not read its spec. Its lines have its old name again.
func (a *attempt) discard() {
	nameLines(a.child.lines, a.child.event())
	a.s.spares.discard(&spare{Child: a.child, x: a.expected})
}

// introduction orders two reports about a spare: introduce reports its start to
// the Trace of the caller, and reap reports its end. The end must come second. If
// the process ends first, introduce reports the end as well.
type introduction struct {
	begun atomic.Bool   // set by the first of introduce and reap
	done  chan struct{} // closed when introduce has returned
}

func newIntroduction() *introduction { return &introduction{done: make(chan struct{})} }

// begin reports whether it is the first call.
func (i *introduction) begin() bool { return i.begun.CompareAndSwap(false, true) }

// close is called by reap before it reports the end. It waits for introduce if
// that has begun.
func (i *introduction) close() {
	if i != nil && !i.begin() {
		<-i.done
	}
}

// introduce makes the spare the child of this boot and reports its start.
func (a *attempt) introduce(ctx context.Context) {
	c := a.child
	early := c.intro.begin()
	if !early {
		<-c.exited
	}
	c.spec, c.report, c.onBehalfOf = &a.spec, a.report, parentOf(ctx)
	event := a.event(c.PID(), a.began.Time)
	a.report.started(event)
	a.report.phase(event, handshake.PhaseSpec)
	if a.report.trace.Phase != nil {
		if at, ok := a.expected.Internal(access.Key{}).Since()[handshake.PhaseReady]; ok {
			event.At = at
			a.report.phase(event, handshake.PhaseReady)
		}
	}
	if !early {
		a.report.exited(c.event(), c.status)
	}
	close(c.intro.done)
}
