package call

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
)

// ServerStream is a method with one request and a stream of replies.
type ServerStream[Req, Resp any] struct {
	name  string
	reqs  box[Req]
	resps box[Resp]
}

// NewServerStream returns the method of that name; see [NewUnary].
func NewServerStream[Req, Resp any](name string) *ServerStream[Req, Resp] {
	return &ServerStream[Req, Resp]{name: checkName(name)}
}

// Name returns the method's name.
func (m *ServerStream[Req, Resp]) Name() string { return m.name }

// Handle makes f the handler of the method in mux; see [Unary.Handle]. f sends its
// replies with send, which blocks while the caller does not take them. send fails
// when the context ends. Only one goroutine at a time may call it.
func (m *ServerStream[Req, Resp]) Handle(
	mux *Mux, f func(ctx context.Context, req Req, send func(Resp) error) error,
) {
	mux.add(&handler{name: m.name, one: true, run: func(x *incoming) (*encoded, error) {
		req, err := receiveRequest(x, &m.reqs)
		if err != nil {
			return nil, err
		}
		return nil, f(x.given, req, func(v Resp) error {
			return sendValue(x.given, &x.exchange, &m.resps, v)
		})
	}})
}

// Call makes a call when the loop over the returned iterator begins. If the call
// fails, the last pair has the [*Error]. When the loop ends early, the call is
// cancelled, and the loop waits for the result, for [Config.CancelGrace] at most.
func (m *ServerStream[Req, Resp]) Call(
	ctx context.Context, c *Conn, req Req,
) iter.Seq2[Resp, error] {
	return func(yield func(Resp, error) bool) {
		var none Resp
		x, err := openWith(ctx, c, m.name, &m.reqs, req)
		if err != nil {
			yield(none, err)
			return
		}
		s := newCallerStream(ctx, x, &m.reqs, &m.resps)
		defer s.Close()
		s.All()(yield)
	}
}

// openWith opens a call with its first and only message.
func openWith[Req any](
	ctx context.Context, c *Conn, method string, reqs *box[Req], req Req,
) (*outgoing, error) {
	traced, t := c.traceCall(ctx, method)
	e, err := newRequest(traced, method, reqs, req)
	if err != nil {
		return nil, c.unsent(t, err)
	}
	defer e.recycle()
	defer c.report()
	c.mu.Lock()
	defer c.mu.Unlock()
	x, err := c.openLocked(ctx, t, method, e, flagValue|flagEnd)
	if err != nil {
		c.endTrace(t, err)
		return nil, err
	}
	c.flushLocked(quick)
	for x.out.large != nil && x.sendError(ctx) == nil {
		c.waitLocked(ctx, &x.out.w)
	}
	x.out.end = true
	if ctx.Err() != nil && !x.done {
		x.cancelLocked(ctx)
		if err := x.outcome(ctx); err != nil {
			x.release()
			return nil, err
		}
	}
	return x, nil
}

// open opens a call without a message.
func open(ctx context.Context, c *Conn, method string) (*outgoing, error) {
	traced, t := c.traceCall(ctx, method)
	e, err := newOpening(traced, method)
	if err != nil {
		return nil, c.unsent(t, err)
	}
	defer e.recycle()
	defer c.report()
	c.mu.Lock()
	defer c.mu.Unlock()
	x, err := c.openLocked(ctx, t, method, e, 0)
	if err != nil {
		c.endTrace(t, err)
		return nil, err
	}
	c.flushLocked(quick)
	return x, nil
}

// ClientStream is a method with a stream of requests and one reply.
type ClientStream[Req, Resp any] struct {
	name  string
	reqs  box[Req]
	resps box[Resp]
}

// NewClientStream returns the method of that name; see [NewUnary].
func NewClientStream[Req, Resp any](name string) *ClientStream[Req, Resp] {
	return &ClientStream[Req, Resp]{name: checkName(name)}
}

// Name returns the method's name.
func (m *ClientStream[Req, Resp]) Name() string { return m.name }

// Handle makes f the handler of the method in mux; see [Unary.Handle]. reqs has the
// requests. If the context ends, its last pair has the error. f may return before the
// last request.
func (m *ClientStream[Req, Resp]) Handle(
	mux *Mux, f func(ctx context.Context, reqs iter.Seq2[Req, error]) (Resp, error),
) {
	mux.add(&handler{name: m.name, run: func(x *incoming) (*encoded, error) {
		s := newHandlerStream(x, &m.resps, &m.reqs)
		resp, err := f(x.given, s.All())
		if err != nil {
			return nil, err
		}
		return encodeResult(&m.resps, resp)
	}})
}

// Call makes a call and returns its reply. It sends the requests of reqs until reqs
// ends or the handler has returned. Sends block while the handler does not take the
// requests. In all else it is like [Unary.Call].
func (m *ClientStream[Req, Resp]) Call(
	ctx context.Context, c *Conn, reqs iter.Seq[Req],
) (Resp, error) {
	var none Resp
	x, err := open(ctx, c, m.name)
	if err != nil {
		return none, err
	}
	s := newCallerStream(ctx, x, &m.reqs, &m.resps)
	defer s.Close()
	for req := range reqs {
		err := s.Send(req)
		if e := (*Error)(nil); errors.As(err, &e) {
			e.Path = []string{m.name}
			return none, e // it could not be encoded
		}
		if err != nil {
			break // Recv returns the reason
		}
	}
	s.CloseSend()
	resp, err := s.Recv()
	if err == io.EOF { //nolint:errorlint // an Error may match io.EOF
		err = localError(m.name, CodeInvalid, errNoMessage)
	}
	if err == nil {
		if _, err = s.Recv(); err == io.EOF { //nolint:errorlint // the result
			return resp, nil
		} else if err == nil {
			err = localError(m.name, CodeInvalid, errSeveralMessages)
		}
	}
	return none, err
}

// Bidi is a method with a stream in each direction.
type Bidi[In, Out any] struct {
	name string
	ins  box[In]
	outs box[Out]
}

// NewBidi returns the method of that name; see [NewUnary]. The caller sends values of
// type In and receives values of type Out.
func NewBidi[In, Out any](name string) *Bidi[In, Out] {
	return &Bidi[In, Out]{name: checkName(name)}
}

// Name returns the method's name.
func (m *Bidi[In, Out]) Name() string { return m.name }

// Handle makes f the handler of the method in mux; see [Unary.Handle]. The stream
// ends when f returns.
func (m *Bidi[In, Out]) Handle(
	mux *Mux, f func(ctx context.Context, s *Stream[Out, In]) error,
) {
	mux.add(&handler{name: m.name, run: func(x *incoming) (*encoded, error) {
		return nil, f(x.given, newHandlerStream(x, &m.outs, &m.ins))
	}})
}

// Open begins a call and returns its stream. The caller must call [Stream.Close] in
// the end, or cancel ctx.
func (m *Bidi[In, Out]) Open(ctx context.Context, c *Conn) (*Stream[In, Out], error) {
	x, err := open(ctx, c, m.name)
	if err != nil {
		return nil, err
	}
	return newCallerStream(ctx, x, &m.ins, &m.outs), nil
}

// Session is a Bidi with an answer to its opening: the handler accepts the call with
// a value of type Started before the streams begin, or fails.
type Session[Started, In, Out any] struct {
	bidi   Bidi[In, Out]
	starts box[Started]
}

// NewSession returns the method of that name; see [NewBidi].
func NewSession[Started, In, Out any](name string) *Session[Started, In, Out] {
	return &Session[Started, In, Out]{bidi: Bidi[In, Out]{name: checkName(name)}}
}

// Name returns the method's name.
func (m *Session[Started, In, Out]) Name() string { return m.bidi.name }

// Handle makes f the handler of the method in mux; see [Unary.Handle]. f accepts the
// call with started, before it sends on the stream. The value may have at most 4 KiB.
func (m *Session[Started, In, Out]) Handle(mux *Mux,
	f func(ctx context.Context, s *Stream[Out, In], started func(Started) error) error,
) {
	mux.add(&handler{name: m.bidi.name, run: func(x *incoming) (*encoded, error) {
		s := newHandlerStream(x, &m.bidi.outs, &m.bidi.ins)
		return nil, f(x.given, s, func(v Started) error {
			e := newEncoded()
			defer e.recycle()
			if err := m.starts.encode(e, v); err != nil {
				return err
			}
			return x.sendStarted(e)
		})
	}})
}

// sendStarted accepts the call with a value.
func (x *incoming) sendStarted(e *encoded) error {
	c := x.c
	c.mu.Lock()
	defer c.mu.Unlock()
	n := len(e.message())
	switch {
	case x.out.sent > 0:
		return errors.New("started a second time, or after a message")
	case overhead+n > minWindow:
		return fmt.Errorf("a started value of %d bytes; the limit is %d", n, minWindow-overhead)
	}
	if err := x.sendError(x.given); err != nil {
		return err
	}
	x.out.charge(n)
	c.queueEncoded(head{opStarted, flagValue, x.id}, e.buf.Bytes())
	c.flushLocked(quick)
	return nil
}

// Open begins a call, waits until the handler has accepted it, and returns the
// handler's value and the stream. If the handler returns before, Open returns its
// error. In all else it is like [Bidi.Open].
func (m *Session[Started, In, Out]) Open(
	ctx context.Context, c *Conn,
) (Started, *Stream[In, Out], error) {
	var none Started
	x, err := open(ctx, c, m.bidi.name)
	if err != nil {
		return none, nil, err
	}
	s := newCallerStream(ctx, x, &m.bidi.ins, &m.bidi.outs)
	first, err := s.takeStarted()
	if err != nil {
		s.Close()
		return none, nil, err
	}
	v, err := m.starts.decode(first)
	s.decodedOne()
	if err != nil {
		s.Close()
		return none, nil, localError(m.bidi.name, CodeInvalid, fmt.Errorf("started: %w", err))
	}
	return v, s, nil
}

// takeStarted waits for the value of a started frame.
func (s *Stream[S, R]) takeStarted() (*message, error) {
	err := s.take()
	if err == nil && s.call.started {
		return s.taken[0], nil
	}
	if err == nil || err == io.EOF { //nolint:errorlint // an Error may match io.EOF
		err = localError(s.call.method, CodeInvalid, errors.New("the call was not started"))
	}
	return nil, err
}
