package transport

import (
	"context"
	"fmt"
	"runtime"

	"github.com/spawnwire/spawnwire/internal/frame"
	"github.com/spawnwire/spawnwire/internal/slab"
)

// minShared is the size of the smallest body in shared memory, in bytes.
const minShared = 64 << 10

// refFrameSize is the size of the frame for a message in shared memory.
const refFrameSize = headerSize + slab.RefSize

// sharing is the shared memory of a channel, see docs/design/250.
type sharing struct {
	out slab.Out // of this side, for the leader of wr.queue
	in  slab.In  // of the peer, for the holder of rd.turn

	came bool // the peer has sent its memory frame; for the holder of rd.turn
}

// SharesMemory reports whether large messages of this side now travel through shared
// memory. They are messages of 64 KiB and more; for Send the size of the encoding counts.
// Both sides agree on it in the handshake (package handshake), on Linux over a Unix socket.
// The first large message goes through the socket and offers the memory.
//
// A channel shares up to 16 MiB in each direction, and keeps it until Close. A process
// shares up to 256 MiB. If there is no room for a message, it goes through the socket.
func (c *Channel) SharesMemory() bool {
	s := c.shared.Load()
	return s != nil && s.out.Ready()
}

// CanShare implements frame.Channel.
func (f frames) CanShare() bool { return f.c.rd.raw != nil && canShare(f.c.conn) }

// Share implements frame.Channel.
func (f frames) Share() {
	s := new(sharing)
	f.c.rd.rights = &rights{offered: s.in.Offered}
	f.c.shared.Store(s)
}

// unshare ends the use of shared memory and of the ring. A lent message stays mapped until the next
// receive, or until nobody uses the channel any more.
func (c *Channel) unshare() {
	c.closeRing()
	s := c.shared.Load()
	if s == nil {
		return
	}
	s.out.Close()
	if s.in.Close() {
		runtime.AddCleanup(c, func(s *sharing) { s.in.Release() }, s)
	}
}

// writeShared writes the message of p through shared memory. p leads, and nothing of it is
// written. shared is false if the message has to go through the socket.
func (c *Channel) writeShared(ctx context.Context, p *place) (n int, err error, shared bool) {
	s := c.shared.Load()
	if s == nil {
		return 0, nil, false
	}
	kind, body := frame.KindSharedRaw, p.body
	if body == nil {
		kind, body = frame.KindSharedMessage, p.frame[headerSize:]
	}
	ref, ok := s.out.Put(body)
	if !ok {
		s.out.Offer(c.wr.sendMemory)
		return 0, nil, false
	}
	frame.PutHeader(p.ref[:], kind, slab.RefSize)
	slab.AppendRef(p.ref[:headerSize], ref)
	n, err = c.wr.write(ctx, p.ref[:])
	if n > 0 { // from now on p is this frame
		s.out.Commit(ref)
		p.frame, p.body, p.large = p.ref[:], nil, false
	}
	return n, err, true
}

// mayShare returns an error unless a frame of the feature may come here, with n bytes of
// kind and body.
func (c *Channel) mayShare(kind frame.Kind, n int64) error {
	want, agreed := int64(1), c.shared.Load() != nil
	switch kind {
	case frame.KindSharedMessage, frame.KindSharedRaw:
		want += slab.RefSize
	case frame.KindRing, frame.KindEnter:
		agreed = c.ring.Load() != nil
	}
	switch {
	case !agreed:
		return fmt.Errorf("%w: unknown kind 0x%02x", ErrProtocol, byte(kind))
	case n != want:
		return fmt.Errorf("%w: %s frame of length %d", ErrProtocol, kind, n)
	}
	return nil
}

// mapShared handles a memory frame. Without the memory the peer goes on as before.
func (c *Channel) mapShared() error {
	s := c.shared.Load()
	if s.came {
		return fmt.Errorf("%w: a second memory frame", ErrProtocol)
	}
	s.came = true
	c.expectRights()
	_ = s.in.Map()
	return nil
}

// expectRights ends the reads with room for descriptors when all have come.
func (c *Channel) expectRights() {
	if r := c.ring.Load(); c.shared.Load().came && (r == nil || r.came) {
		c.rd.rights = nil
	}
}

// findShared reads the place of the pending message. From then on it is a message of the
// usual kind.
func (c *Channel) findShared(ctx context.Context) error {
	rd := &c.rd
	b, err := c.wholeBody(ctx)
	if err != nil {
		return err
	}
	ref := slab.ParseRef(b)
	n := int64(ref.Size) + 1
	if limit := c.maxFrameSize.Load(); n > limit {
		return rd.end(&SizeError{Size: n, Limit: limit, received: true})
	}
	if err := c.shared.Load().in.Check(ref); err != nil {
		return rd.end(fmt.Errorf("%w: %v", ErrProtocol, err))
	}
	if rd.kind == frame.KindSharedRaw {
		rd.kind = frame.KindRaw
	} else {
		rd.kind = frame.KindMessage
	}
	rd.size, rd.shared = int(ref.Size), ref
	return nil
}

// lendShared returns the pending message where it is. The next receive gives it back.
func (c *Channel) lendShared() ([]byte, error) {
	b := c.shared.Load().in.Take(c.rd.shared)
	if b == nil {
		return nil, ErrChannelClosed
	}
	c.lentShared.Store(true)
	c.rd.finish()
	c.rd.release()
	return b, nil
}

// endLend ends a lend of lendShared. The caller has the turn to read, or the channel is
// closed.
func (c *Channel) endLend() {
	if c.lentShared.Load() && c.lentShared.Swap(false) {
		c.shared.Load().in.Release()
	}
}

// copyShared copies the pending message to p and ends the message. p has room for it.
func (c *Channel) copyShared(p []byte) error {
	in := &c.shared.Load().in
	b := in.Take(c.rd.shared)
	if b == nil {
		return ErrChannelClosed
	}
	copy(p, b)
	in.Release()
	c.rd.finish()
	c.rd.release()
	return nil
}

// privateBody copies the body of the pending message, which stays pending: the peer might
// change it while it is decoded.
func (c *Channel) privateBody() ([]byte, error) {
	rd := &c.rd
	in := &c.shared.Load().in
	b := in.Take(rd.shared)
	if b == nil {
		return nil, ErrChannelClosed
	}
	rd.body = takeBody(rd.body)
	rd.body.b = append(rd.body.b[:0], b...)
	in.Release()
	rd.shared = slab.Ref{}
	return rd.body.b, nil
}
