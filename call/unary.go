package call

import (
	"context"
	"fmt"
)

// Unary is a method with one request and one reply. Both processes make the same
// Unary with [NewUnary], mostly in a package that both import:
//
//	var Resize = call.NewUnary[ResizeRequest, Image]("image.resize")
type Unary[Req, Resp any] struct {
	name  string
	reqs  box[Req]
	resps box[Resp]
}

// NewUnary returns the method of that name, which has at most 255 bytes. Requests
// and replies are encoded as CBOR, as by [transport.Channel.Send]: of a struct, the
// exported fields. struct{} is the type of nothing.
func NewUnary[Req, Resp any](name string) *Unary[Req, Resp] {
	return &Unary[Req, Resp]{name: checkName(name)}
}

// Name returns the method's name.
func (u *Unary[Req, Resp]) Name() string { return u.name }

// Handle makes f the handler of the method in mux. It panics if mux has one.
//
// f may be called concurrently. Its context ends when the caller cancels the call,
// with a [*CancelError] as the cause, when the call's deadline passes, or when the
// connection ends. The caller waits until f has returned, also after it has
// cancelled. If f panics, the caller gets an [*Error] with the stack, and the panic
// goes on, unless [Config.OnPanic] is set.
func (u *Unary[Req, Resp]) Handle(
	mux *Mux, f func(ctx context.Context, req Req) (Resp, error),
) {
	mux.add(&handler{name: u.name, one: true, run: func(x *incoming) (*encoded, error) {
		req, err := receiveRequest(x, &u.reqs)
		if err != nil {
			return nil, err
		}
		resp, err := f(x.given, req)
		if err != nil {
			return nil, err
		}
		return encodeResult(&u.resps, resp)
	}})
}

// receiveRequest decodes the one request of a call.
func receiveRequest[Req any](x *incoming, reqs *box[Req]) (Req, error) {
	x.c.mu.Lock()
	m := x.take()
	x.c.mu.Unlock()
	req, err := reqs.decode(m)
	n := len(m.b)
	m.recycle()
	if x.in.extra > 0 { // only this goroutine changes it now
		x.c.mu.Lock()
		x.taken(n)
		x.c.flushLocked(quick)
		x.c.mu.Unlock()
	}
	if err != nil {
		return req, &Error{Code: CodeInvalid, Text: fmt.Sprintf("the request: %v", err)}
	}
	return req, nil
}

func encodeResult[Resp any](resps *box[Resp], resp Resp) (*encoded, error) {
	e := newEncoded()
	if err := resps.encode(e, resp); err != nil {
		e.recycle()
		return nil, &Error{Code: CodeInvalid, Text: fmt.Sprintf("the result: %v", err)}
	}
	return e, nil
}

// Call makes a call and returns its reply.
//
// If ctx ends, Call asks the peer to cancel the call and waits for its result, for
// [Config.CancelGrace] at most. So after an error without [ErrStillRunning] the
// handler has ended. The result may also be a success. The deadline of ctx is the
// handler's, too.
//
// Every error is an [*Error]. If the connection ends before the result has come, it
// matches the error of the connection.
func (u *Unary[Req, Resp]) Call(ctx context.Context, c *Conn, req Req) (Resp, error) {
	var none Resp
	traced, t := c.traceCall(ctx, u.name)
	e, err := newRequest(traced, u.name, &u.reqs, req)
	if err != nil {
		return none, c.unsent(t, err)
	}
	x, err := c.roundTrip(ctx, t, u.name, e)
	e.recycle()
	if err != nil {
		return none, err
	}
	resp, err := u.resps.decode(x.in.ready[0])
	x.end()
	if err != nil {
		return none, localError(u.name, CodeInvalid, fmt.Errorf("the result: %w", err))
	}
	return resp, nil
}
