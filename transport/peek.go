package transport

import (
	"context"
	"encoding/binary"
)

// maxPeek is how many bytes PeekFrame looks at.
const maxPeek = 1 << 10

// PeekFrame is ReadFrame, but leaves a frame that is small and has come whole in the socket until the next receive, or [Channel.Unpeek]. For
// to take it out tells the sender of the room, and wakes its poller: on a Unix socket that can take longer than all else about
// the read, and with PeekFrame it is put off until the answer is sent. To the peer a connection that is closed before is one on which the frame
// was not read.
func (c *Channel) PeekFrame(ctx context.Context) (Frame, error) {
	f, ok, err := c.peekFrame(ctx)
	switch {
	case err != nil:
		return Frame{}, &Error{"receive", err}
	case !ok:
		return c.ReadFrame(ctx)
	}
	return f, nil
}

// peekFrame returns false when the next frame is one for ReadFrame: it is not all in the socket, or is no small one that is allowed.
func (c *Channel) peekFrame(ctx context.Context) (f Frame, ok bool, err error) {
	if err := c.startReceive(ctx); err != nil {
		return f, false, err
	}
	defer c.rd.turn.give()
	rd := &c.rd
	if rd.raw == nil || rd.err != nil || rd.pending || rd.r != rd.w || rd.peeked > 0 {
		return f, false, nil
	}
	p := make([]byte, maxPeek)
	p[0] = 1 // it may be the first on its page, which is to be there before the wait and not made behind it
	rd.peeking = true
	n, err := c.read(ctx, p)
	rd.peeking = false
	if err != nil {
		return f, false, err
	}
	if n < headerSize {
		return f, false, nil
	}
	size, kind := int64(binary.LittleEndian.Uint32(p)), Kind(p[lengthSize])
	if size == 0 || size > min(c.limit.Load(), int64(n-lengthSize)) || !kind.known() {
		return f, false, nil
	}
	rd.peeked = lengthSize + int(size)
	return Frame{kind, p[headerSize:rd.peeked:rd.peeked]}, true, nil
}

// Unpeek takes out of the socket what PeekFrame has left there.
func (c *Channel) Unpeek() {
	if c.startReceive(context.Background()) != nil {
		return // it is closed
	}
	defer c.rd.turn.give()
	if c.rd.peeked > 0 {
		c.rd.unpeek()
	}
}
