package transport

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/spawnwire/spawnwire/internal/frame"
	"github.com/spawnwire/spawnwire/internal/neterr"
)

// Recv receives the next message and decodes it from CBOR into v, a pointer.
//
// A message of SendBytes gives [ErrWrongKind] and stays. A message that does not fit
// v gives a [*DecodeError] and is used up. If the peer has closed the channel, the
// error is a [*GoodbyeError], which matches [io.EOF]; after a crash it is
// [ErrPeerGone]. If ctx ends, the error is its error and cause, and nothing is lost.
//
// A map that is received into an any becomes a map[string]any, which encoding/json
// takes. If a map of the message has a key that is not text, each becomes a
// map[any]any.
//
// Recv copies the message into v. Fields of the types [Bytes] and cbor.RawMessage
// reuse their capacity; a []byte gets new memory.
func (c *Channel) Recv(ctx context.Context, v any) (err error) {
	defer wrap("receive", &err)
	if err := c.startReceive(ctx); err != nil {
		return err
	}
	defer c.rd.turn.give()
	if err := c.nextMessage(ctx, frame.KindMessage); err != nil {
		return err
	}
	body, err := c.wholeBody(ctx)
	if err != nil {
		return err
	}
	defer c.rd.release()
	defer c.rd.finish()
	return decodeMessage(body, v)
}

// RecvBytes receives the next message of SendBytes into buf and returns its length.
// It reads large messages from the socket directly into buf. When it fails, it may
// have written a part of the message into buf.
//
// A message that is larger than buf gives a [*ShortBufferError] and stays. A message
// of Send gives [ErrWrongKind] and stays. The other errors are those of Recv.
func (c *Channel) RecvBytes(ctx context.Context, buf []byte) (size int, err error) {
	defer wrap("receive", &err)
	if err := c.startReceive(ctx); err != nil {
		return 0, err
	}
	defer c.rd.turn.give()
	if err := c.nextMessage(ctx, frame.KindRaw); err != nil {
		return 0, err
	}
	rd := &c.rd
	size = rd.size
	if size > len(buf) {
		return 0, &ShortBufferError{Need: size, have: len(buf)}
	}
	if rd.shared.Size > 0 {
		return size, c.copyShared(buf)
	}
	got := 0
	if rd.body != nil {
		got = copy(buf, rd.body.b) // of an earlier receive that ended within the body
	} else if size <= firstRead {
		if err := c.fill(ctx, size); err != nil {
			return 0, err
		}
	}
	m := copy(buf[got:size], rd.buf[rd.r:rd.w])
	rd.r += m
	got += m
	for got < size {
		n, err := c.read(ctx, buf[got:size])
		got += n
		if err != nil {
			rd.body = takeBody(rd.body)
			rd.body.b = append(rd.body.b[:0], buf[:got]...)
			return 0, err
		}
	}
	rd.finish()
	rd.release()
	return size, nil
}

// RecvBorrowed receives the next message of SendBytes into memory of the channel and
// returns that memory. The caller must not use it after the next receive on the channel.
// So only one goroutine at a time should receive. After Close or Abort it stays valid as
// long as the program uses the channel itself; see [runtime.KeepAlive].
//
// The caller must not change the memory. It can be shared with the peer, see
// [Channel.SharesMemory]: then a write ends the program (SIGSEGV), and a malicious peer can
// change the bytes while they are read.
//
// RecvBorrowed is for messages of unknown size. It reuses the memory of messages up
// to 4 MiB. The errors are those of Recv.
func (c *Channel) RecvBorrowed(ctx context.Context) (body []byte, err error) {
	defer wrap("receive", &err)
	if err := c.startReceive(ctx); err != nil {
		return nil, err
	}
	defer c.rd.turn.give()
	if err := c.nextMessage(ctx, frame.KindRaw); err != nil {
		return nil, err
	}
	if c.rd.shared.Size > 0 {
		return c.lendShared()
	}
	if body, err = c.wholeBody(ctx); err != nil {
		return nil, err
	}
	c.rd.lend()
	return body, nil
}

// Read implements frame.Channel. It limits how much it skips, because a handshake
// reads from unauthenticated clients with it.
func (f frames) Read(ctx context.Context) (next frame.Frame, err error) {
	defer wrap("receive", &err)
	c := f.c
	if err := c.startReceive(ctx); err != nil {
		return frame.Frame{}, err
	}
	defer c.rd.turn.give()
	defer c.rd.intr.disarm() // the context of a handshake ends before the connection does
	if err := c.header(ctx, c.maxFrameSize.Load()); err != nil {
		return frame.Frame{}, err
	}
	body, err := c.wholeBody(ctx)
	if err != nil {
		return frame.Frame{}, err
	}
	next = frame.Frame{Kind: c.rd.kind, Body: body}
	if c.rd.body == nil {
		next = next.Copy() // so that a channel that is idle after its handshake has no buffer
	}
	c.rd.lend()
	c.rd.release()
	return next, nil
}

// startReceive takes the turn to read.
func (c *Channel) startReceive(ctx context.Context) error {
	if ctx.Err() != nil {
		return neterr.Context(ctx)
	}
	if err := c.rd.turn.take(ctx, c.closed); err != nil {
		if c.closing.Load() {
			c.endLend()
		}
		return err
	}
	if c.closing.Load() {
		c.endLend()
		c.rd.turn.give()
		return ErrChannelClosed
	}
	if c.rd.lent != nil {
		putBody(c.rd.lent)
		c.rd.lent = nil
	}
	c.endLend()
	return nil
}

// nextMessage reads up to the header of the next message, which must be of kind
// want. It handles the control frames before it.
func (c *Channel) nextMessage(ctx context.Context, want frame.Kind) error {
	err := c.nextOfProgram(ctx)
	if err == nil && c.rd.kind != want {
		return wrongKind(c.rd.kind, want)
	}
	return err
}

// nextOfProgram reads up to the header of the next message or call frame. It handles
// the control frames before it.
func (c *Channel) nextOfProgram(ctx context.Context) error {
	for {
		if err := c.header(ctx, math.MaxInt64); err != nil {
			return err
		}
		switch c.rd.kind {
		case frame.KindMessage, frame.KindRaw, frame.KindCall:
			return nil
		case frame.KindSharedMessage, frame.KindSharedRaw:
			return c.findShared(ctx)
		}
		if err := c.handle(ctx); err != nil {
			return err
		}
	}
}

// handle reads and handles the pending control frame.
func (c *Channel) handle(ctx context.Context) error {
	body, err := c.wholeBody(ctx)
	if err != nil {
		return err
	}
	defer c.rd.finish() // also if onCancel panics
	if err := c.control(c.rd.kind, body); err != nil {
		c.rd.end(err)
		if errors.As(err, new(*GoodbyeError)) {
			c.letGo()
		}
		return err
	}
	return nil
}

// control handles a frame that is not a message. An error ends the receiving side.
func (c *Channel) control(kind frame.Kind, body []byte) error {
	switch kind {
	case frame.KindPing:
		return c.answer(body)
	case frame.KindMemory:
		return c.mapShared()
	case frame.KindRing:
		return c.mapRing()
	case frame.KindEnter:
		return c.enterRing()
	case frame.KindPong:
		c.pings.answered(body)
		return nil
	case frame.KindCancel:
		request, err := frame.ParseCancel(body)
		if err != nil {
			return fmt.Errorf("%w: cancel frame: %v", ErrProtocol, err)
		}
		if c.onCancel != nil {
			c.onCancel(request)
		}
		return nil
	case frame.KindGoodbye:
		bye, err := frame.ParseGoodbye(body)
		if err != nil {
			return fmt.Errorf("%w: goodbye frame: %v", ErrProtocol, err)
		}
		return &GoodbyeError{Status: bye.Status, Reason: bye.Reason}
	}
	return fmt.Errorf("%w: %s frame on an open channel", ErrProtocol, kind)
}

// header reads up to the next frame of a known kind, unless there is a pending one.
// It skips at most maxSkipped bytes of other frames in a row.
func (c *Channel) header(ctx context.Context, maxSkipped int64) error {
	rd := &c.rd
	for {
		if rd.err != nil {
			return rd.err
		}
		if !rd.pending {
			if err := c.readHeader(ctx); err != nil {
				return err
			}
		}
		if rd.kind < frame.KindExtension {
			rd.skipped = 0
			return nil
		}
		if rd.skipped > maxSkipped {
			return rd.end(fmt.Errorf("%w: more than %d bytes of extension frames",
				ErrProtocol, maxSkipped))
		}
		if err := c.skip(ctx); err != nil {
			return err
		}
	}
}

// readHeader reads the header of a frame and makes the frame pending.
func (c *Channel) readHeader(ctx context.Context) error {
	rd := &c.rd
	if err := c.fill(ctx, headerSize); err != nil {
		return err
	}
	n := int64(binary.LittleEndian.Uint32(rd.buf[rd.r:]))
	switch limit := c.maxFrameSize.Load(); {
	case n == 0:
		return rd.end(fmt.Errorf("%w: a frame of length 0", ErrProtocol))
	case n > limit:
		return rd.end(&SizeError{Size: n, Limit: limit, received: true})
	}
	if n > firstRead {
		rd.ask = firstRead
	}
	rd.kind = frame.Kind(rd.buf[rd.r+lengthSize])
	if !rd.kind.Known() && rd.kind < frame.KindExtension {
		return rd.end(fmt.Errorf("%w: unknown %s", ErrProtocol, rd.kind))
	}
	if rd.kind.Shares() {
		if err := c.mayShare(rd.kind, n); err != nil {
			return rd.end(err)
		}
	}
	rd.r += headerSize
	rd.pending, rd.size = true, int(n)-1
	if rd.kind >= frame.KindExtension {
		rd.skipped += n
	}
	return nil
}

// skip drops the body of the pending frame as it arrives.
func (c *Channel) skip(ctx context.Context) error {
	rd := &c.rd
	for {
		n := min(rd.size, rd.w-rd.r)
		rd.r += n
		rd.size -= n
		if rd.size == 0 {
			rd.pending = false
			return nil
		}
		if err := c.fill(ctx, 1); err != nil {
			return err
		}
	}
}

// wholeBody returns the body of the pending frame, which stays pending until finish.
// The bytes are valid until the next receive.
func (c *Channel) wholeBody(ctx context.Context) ([]byte, error) {
	rd := &c.rd
	if rd.shared.Size > 0 {
		return c.privateBody()
	}
	if rd.body == nil && rd.size <= rd.room {
		if err := c.fill(ctx, rd.size); err != nil {
			return nil, err
		}
		b := rd.buf[rd.r : rd.r+rd.size : rd.r+rd.size] // no append may write over the next frame
		rd.r += rd.size
		return b, nil
	}
	body := takeBody(rd.body)
	rd.body = body
	m := min(rd.size-len(body.b), rd.w-rd.r)
	body.b = append(body.b, rd.buf[rd.r:rd.r+m]...)
	rd.r += m
	for len(body.b) < rd.size {
		if len(body.b) == cap(body.b) {
			grown := make([]byte, len(body.b), min(rd.size, 2*len(body.b)))
			copy(grown, body.b)
			body.b = grown
		}
		n, err := c.read(ctx, body.b[len(body.b):min(cap(body.b), rd.size)])
		body.b = body.b[:len(body.b)+n]
		if err != nil {
			return nil, err
		}
	}
	return body.b, nil
}
