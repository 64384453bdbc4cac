package transport

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spawnwire/spawnwire/internal/slab"
)

// ring is the ring of a channel, see docs/design/251. Each direction begins in the socket
// and enters the ring at the end of a frame. From then on the socket only shows the end of
// the peer, and a goroutine for each direction waits for that.
type ring struct {
	out     slab.RingOut // for the leader of wr.queue
	in      slab.RingIn  // for the holder of rd.turn
	writes  atomic.Bool  // this side has entered out
	reads   atomic.Bool  // the peer has entered in
	came    bool         // the peer has sent its ring frame; for the holder of rd.turn
	watches sync.WaitGroup

	mu     sync.Mutex // guards closed
	closed bool       // there are no new watches
}

// watch runs f in a goroutine until closeRing, unless that was called.
func (r *ring) watch(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.closed {
		r.watches.Go(f)
	}
}

// UsesRing reports whether all messages of this side now travel through a ring in shared
// memory, which needs no system call for a message while both sides are busy. Both sides
// agree on it in the handshake if it was asked for (package handshake), on Linux over a
// Unix socket. The first messages go through the socket.
func (c *Channel) UsesRing() bool {
	r := c.ring.Load()
	return r != nil && r.writes.Load()
}

// UseRing implements frame.Channel.
func (f frames) UseRing() {
	c, r := f.c, new(ring)
	offered := c.shared.Load().in.Offered
	c.rd.rights.offered = func(fds []int) {
		if len(fds) > 2 {
			r.in.Offered(fds)
		} else {
			offered(fds)
		}
	}
	c.ring.Store(r)
}

// setReadDeadline sets the deadline of reads from the socket and the ring. In the ring a
// deadline of the socket would end the wait of a watch.
func (c *Channel) setReadDeadline(t time.Time) error {
	if r := c.ring.Load(); r != nil {
		r.in.Interrupt(!t.IsZero())
		if r.reads.Load() {
			return nil
		}
	}
	return c.conn.SetReadDeadline(t)
}

// setWriteDeadline is like setReadDeadline.
func (c *Channel) setWriteDeadline(t time.Time) error {
	if r := c.ring.Load(); r != nil {
		r.out.Interrupt(!t.IsZero())
		if r.writes.Load() {
			return nil
		}
	}
	return c.conn.SetWriteDeadline(t)
}

// beginRing enters the ring as soon as the peer has mapped it. The caller leads wr.queue,
// is between two frames, and has a frame of the program: the handshake is over then.
func (c *Channel) beginRing() {
	r := c.ring.Load()
	if r == nil || c.wr.ring != nil || c.closing.Load() {
		return
	}
	if !r.out.Ready() {
		s := c.shared.Load()
		s.out.Offer(c.wr.sendMemory) // in the ring it would be too late
		if s.out.Offered() {
			r.out.Offer(c.wr.sendRing)
		}
		return
	}
	if !c.wr.sendEnter() {
		return
	}
	c.wr.ring = &r.out
	r.writes.Store(true)
	r.watch(func() { c.watchPeer(r.out.End, c.wr.waitHangUp, c.conn.SetWriteDeadline) })
}

// watchPeer calls end when the peer is gone. It also returns when the connection is closed:
// then closeRing ends the waits, with the error of a closed channel.
func (c *Channel) watchPeer(
	end func(), wait func() error, setDeadline func(time.Time) error,
) {
	for isTimeout(wait()) { // an interrupt that came just before the ring was entered
		setDeadline(time.Time{})
	}
	select {
	case <-c.closed:
	default:
		end()
	}
}

// mapRing handles a ring frame. Without the ring the peer goes on as before.
func (c *Channel) mapRing() error {
	r := c.ring.Load()
	if r.came {
		return fmt.Errorf("%w: a second ring frame", ErrProtocol)
	}
	r.came = true
	c.expectRights()
	_ = r.in.Map()
	return nil
}

// enterRing handles an enter frame: what the peer sends from now on is in its ring.
func (c *Channel) enterRing() error {
	r := c.ring.Load()
	switch {
	case c.rd.ring != nil:
		return fmt.Errorf("%w: a second enter frame", ErrProtocol)
	case !r.in.Mapped():
		if c.closing.Load() {
			return ErrChannelClosed
		}
		return fmt.Errorf("%w: an enter frame without a ring", ErrProtocol)
	case c.rd.r != c.rd.w:
		return fmt.Errorf("%w: bytes after an enter frame", ErrProtocol)
	}
	c.rd.rights = nil
	c.rd.release()
	c.rd.ring = &r.in
	r.reads.Store(true)
	r.watch(func() { c.watchPeer(r.in.End, c.readEnd, c.conn.SetReadDeadline) })
	return nil
}

// readEnd waits for the end of the socket. No bytes may come before it.
func (c *Channel) readEnd() error {
	var b [1]byte
	_, err := c.conn.Read(b[:])
	return err
}

// closeRing ends the use of the ring. The connection is closed, or the ring not entered.
func (c *Channel) closeRing() {
	if r := c.ring.Load(); r != nil {
		r.mu.Lock()
		r.closed = true
		r.mu.Unlock()
		r.out.Close()
		r.in.Close()
		r.watches.Wait()
	}
}

// readRing is readOnce in the ring.
func (rd *reader) readRing(ctx context.Context, p []byte) (n int, err error) {
	rd.intr.disarmUnlessFor(ctx)
	rd.into = p
	for {
		n, err = rd.ring.Read(rd.dest())
		if n > 0 || err != nil {
			return n, ringError(err)
		}
		rd.release()
		rd.intr.arm(ctx)
		if err := rd.ring.Wait(); err != nil {
			return 0, err
		}
	}
}

// writeRing is write in the ring. It writes head and then body.
func (wr *writer) writeRing(ctx context.Context, head, body []byte) (written int, err error) {
	wr.intr.disarmUnlessFor(ctx)
	for {
		n, err := wr.ring.Write(head, body)
		written += n
		m := min(n, len(head))
		head, body = head[m:], body[n-m:]
		left := len(head) + len(body)
		if err != nil || left == 0 || n == 0 && wr.noWait {
			return written, ringError(err)
		}
		if n > 0 {
			continue
		}
		wr.intr.arm(ctx)
		if err := wr.ring.Wait(); err != nil {
			return written, err
		}
	}
}

// writeAtOnce writes p if it is small, nobody else sends, and the ring has room: then it
// takes no system call but the wake-up of the peer. The caller has locked the queue.
func (c *Channel) writeAtOnce(p *place) bool {
	q := &c.wr.queue
	if q.first != nil || q.gathering || q.err != nil || c.closing.Load() || !p.combines() {
		return false
	}
	ring := c.wr.ring // a leader may set it, and there is none
	if ring == nil || !ring.HasRoom(len(p.frame)) {
		return false
	}
	n, err := ring.Write(p.frame, nil)
	return err == nil && n == len(p.frame)
}

func ringError(err error) error {
	if errors.Is(err, slab.ErrRing) {
		return fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	return err
}
