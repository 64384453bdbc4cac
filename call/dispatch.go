package call

import (
	"errors"
	"fmt"

	"github.com/spawnwire/spawnwire/internal/frame"
)

// dispatch handles a frame that has come. It returns the call whose handler is to
// be run, if any. An error is a violation of the protocol. The caller has locked mu.
func (c *Conn) dispatch(f frame.Frame) (*incoming, error) {
	if f.Kind != frame.KindCall {
		c.messages.put(c, f)
		return nil, nil
	}
	h, body, err := parseHead(f.Body)
	switch {
	case err != nil:
		return nil, err
	case h.op >= opExtension:
		return nil, nil
	case (c.peer == nil) != (h.op == opHello):
		return nil, fmt.Errorf("%v where a hello has its place, or a second hello", h.op)
	}
	switch {
	case h.op == opHello:
		limits, err := parseHello(body)
		if err != nil {
			return nil, fmt.Errorf("hello: %w", err)
		}
		c.peer = &limits
		c.slots.signalAll(c)
		return nil, nil
	case h.op == opGoAway:
		c.goneAway = true
		c.slots.signalAll(c)
		return nil, nil
	case h.op == opOpen:
		return c.accept(h, body)
	case h.has(flagCaller):
		if x := c.theirs[h.id]; x != nil {
			return x.handle(h, body)
		}
		if h.id > c.lastTheirs {
			return nil, fmt.Errorf("%v on call %d, which was not opened", h.op, h.id)
		}
		return nil, nil // the call has ended here
	}
	x := c.ours[h.id]
	if x == nil {
		return nil, fmt.Errorf("%v on call %d, which is not open", h.op, h.id)
	}
	if err := x.handle(h, body); err != nil {
		return nil, fmt.Errorf("call of %s: %w", x.method, err)
	}
	return nil, nil
}

// accept begins a call of the peer.
func (c *Conn) accept(h head, body []byte) (*incoming, error) {
	switch {
	case h.id <= c.lastTheirs:
		return nil, fmt.Errorf("call %d after call %d", h.id, c.lastTheirs)
	case len(c.theirs)+c.writing.results >= c.cfg.MaxCalls:
		return nil, fmt.Errorf("more than %d open calls", c.cfg.MaxCalls)
	}
	o, method, err := parseOpening(body)
	if err != nil {
		return nil, err
	}
	x := newIncoming(c, h.id, c.mux.method(method), o.timeout)
	if x.ctx.metadata, err = parseMetadata(o.metadata); err != nil {
		return nil, fmt.Errorf("metadata: %w", err)
	}
	c.lastTheirs = h.id
	c.reading.active = activeTicks
	c.theirs[h.id] = x
	switch {
	case x.h == nil:
		x.refuse(&Error{Code: CodeUnimplemented, Text: fmt.Sprintf("no method %q", method)})
		return nil, nil
	case c.draining:
		x.refuse(&Error{
			Code: CodeDraining, Text: ErrDraining.Error(), causes: []error{ErrDraining},
		})
		return nil, nil
	}
	if err := x.receive(h, o.value); err != nil {
		return nil, err
	}
	return x.begin(), nil
}

// handle handles a frame of the caller. It returns x if its handler is to be run.
func (x *incoming) handle(h head, body []byte) (*incoming, error) {
	switch h.op {
	case opData:
		if err := x.receive(h, body); err != nil {
			return nil, err
		}
		return x.begin(), nil
	case opCredit:
		return nil, x.credit(body)
	case opCancel:
		request, err := parseCancellation(body)
		if err != nil {
			return nil, fmt.Errorf("cancel: %w", err)
		}
		x.cancelled(request)
		return nil, nil
	}
	return nil, fmt.Errorf("%v from a caller", h.op)
}

// handle handles a frame of the callee.
func (x *outgoing) handle(h head, body []byte) error {
	switch h.op {
	case opStarted:
		if x.started || len(x.in.ready) > 0 || x.in.part != nil {
			return errors.New("started a second time, or after a message")
		}
		x.started = true
		x.notify()
		return x.receive(h, body)
	case opData:
		return x.receive(h, body)
	case opCredit:
		return x.credit(body)
	case opResult:
		return x.finish(h, body)
	}
	return fmt.Errorf("%v from a callee", h.op)
}
