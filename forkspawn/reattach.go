package forkspawn

import (
	"context"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/spawnwire/spawnwire/forkspawn/internal/capture"
	"github.com/spawnwire/spawnwire/forkspawn/internal/osproc"
	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/internal/access"
	"github.com/spawnwire/spawnwire/internal/unixsock"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// foreignProcess is a Process that was taken over.
type foreignProcess struct{ *osproc.Foreign }

func (p foreignProcess) Wait() ExitStatus { return ExitStatus{p.Foreign.Wait()} }

// Reattach takes over a child that another process has released with [Child.Release]. It
// returns when the child is ready. The Child works as any other: its channel, the
// events, Stop, Kill and Release. When this process
// ends, the kernel kills the child's process group.
//
// There are three differences. The exit status is known on Linux 6.15 and newer, and
// otherwise it is unknown. Child.Spec has no Args. Child.Open is not available.
//
// The error has a [*BootError] in its chain. If nobody listens at the child's address, it
// matches fs.ErrNotExist or syscall.ECONNREFUSED: the child has ended, or another process
// has taken it over. After another error the child may still wait, until the end of its
// lease. It is on Linux only; elsewhere the error matches errors.ErrUnsupported.
func (s *Spawner) Reattach(ctx context.Context, h Handle) (*Child, error) {
	b := s.newBoot(ctx, options{cmd: Command{Releasable: true}}, spawnspec.Spec{}, &s.report)
	c, err := b.takeOver(ctx, h)
	if err != nil {
		return nil, prefixed("reattach", err)
	}
	return c, nil
}

func (b *boot) takeOver(ctx context.Context, h Handle) (*Child, error) {
	if !b.s.begin() {
		return nil, b.fail(ErrSpawnerClosed)
	}
	defer b.s.boots.Done()
	spec, err := spawnspec.Unmarshal(h.spec)
	if err != nil {
		return nil, b.fail(fmt.Errorf("handle: %w", err))
	}
	b.spec = *spec
	b.spec.Depth, b.spec.Grace = parentOf(ctx).depth()+1, b.s.cfg.StopGrace
	limits, release := b.limit(ctx)
	defer release()
	a := &attempt{boot: b, id: h.ticket.ID, connected: true, began: now()}
	proc, err := a.reach(limits.timed, h)
	if err != nil {
		return nil, b.fail(err)
	}
	defer a.expected.Cancel()
	a.expected.SetPID(proc.PID())
	peer, err := a.expected.WaitForPeer(limits.timed)
	if err == nil && !b.s.cfg.NoParentDeathSignal {
		err = proc.Hold()
	}
	if err != nil {
		proc.Close()
		closeAll([]net.Conn{a.requests})
		if peer != nil {
			peer.Abort()
		}
		phase, cause, _ := a.explain(err)
		if phase == handshake.PhaseConnect { // the child has a connection
			phase, cause = handshake.PhaseHello, fmt.Errorf("%w; %w", cause, errUnasked)
		}
		failed := time.Now()
		boot := b.bootError(phase, cause, failed)
		boot.ID, boot.PID, boot.Phases = a.id, proc.PID(), a.phases(failed)
		b.report.bootFailed(b.caller, boot)
		return nil, boot
	}
	a.start(ctx, foreignProcess{proc}, capture.Streams{}, false)
	return a.finish(peer), nil
}

// reach dials a released child and sends it three connections: for messages, for control,
// and for the requests of Release. The handshake over the first one proves that it is the
// child, and so that the pidfd is the child's.
func (a *attempt) reach(ctx context.Context, h Handle) (_ *osproc.Foreign, err error) {
	spec, err := spawnspec.Marshal(&a.spec)
	if err != nil {
		return nil, err
	}
	conn, err := dialer(h.ticket.Addr)(ctx)
	if err != nil {
		return nil, fmt.Errorf("nobody waits there: the child has ended, or has a parent: %w", err)
	}
	defer conn.Close()
	cred, pidfd, err := unixsock.HoldPeer(conn)
	if err != nil {
		return nil, err
	}
	proc, err := osproc.NewForeign(cred.PID, pidfd)
	if err != nil {
		return nil, publicError(err)
	}
	var ends [2][3]net.Conn
	defer func() {
		closeAll(ends[1][:])
		if err != nil {
			closeAll(ends[0][:])
			proc.Close()
		}
	}()
	if int(cred.UID) != os.Geteuid() {
		return nil, fmt.Errorf("%w: uid %d", handshake.ErrForeignUser, cred.UID)
	}
	for i := range 3 {
		if ends[0][i], ends[1][i], err = unixsock.Pair(); err != nil {
			return nil, explainScarcity(err)
		}
	}
	if err := sendConns(ctx, conn, ends[1][:]...); err != nil {
		return nil, err
	}
	a.expected, err = a.s.peers.Expect(handshake.Expectation{Spec: spec,
		Internal: access.ExpectOptions{Ticket: h.ticket.Encode()}})
	if err != nil {
		return nil, err
	}
	a.expected.Internal(access.Key{}).UsePair(ends[0][0], ends[0][1])
	a.requests = ends[0][2]
	return proc, nil
}
