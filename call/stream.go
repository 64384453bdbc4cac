package call

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"sync/atomic"

	"github.com/spawnwire/spawnwire/internal/neterr"
)

// errConcurrent is the error of a Send during a Send, or a Recv during a Recv.
var errConcurrent = errors.New("two goroutines use one direction of a stream at the same time")

// Stream is one side of a bidirectional call. It sends values of type S and receives
// values of type R. The peer has a Stream[R, S].
//
// One goroutine may send while another receives. The caller's side must call Close
// in the end, or cancel the context of the call. A handler's Stream ends when the
// handler returns.
type Stream[S, R any] struct {
	x     *exchange
	ctx   context.Context
	call  *outgoing // of x, on the caller's side; else nil
	stop  func() bool
	sends *box[S]
	recvs *box[R]

	closed atomic.Bool // by Close, on the caller's side

	// For the receiving goroutine.
	taken   []*message // from the inbox, the decoded ones without their credit first
	decoded int        // how many of them are decoded
	counted int        // their cost
	failed  error      // of every further receive
}

// Send sends a value. It returns when the value is queued, and blocks while the peer
// does not take its messages. After the peer has ended the call, the error on the
// caller's side is io.EOF, and Recv returns the result. If the context ends, it is
// the context's error, and after Close it is ErrClosed.
func (s *Stream[S, R]) Send(v S) error {
	if s.closed.Load() {
		return ErrClosed
	}
	return sendValue(s.ctx, s.x, s.sends, v)
}

// sendValue sends a value on a call.
func sendValue[T any](ctx context.Context, x *exchange, b *box[T], v T) error {
	e := newEncoded()
	defer e.recycle()
	if err := b.encode(e, v); err != nil {
		return &Error{Code: CodeInvalid, Text: fmt.Sprintf("a message: %v", err)}
	}
	x.c.mu.Lock()
	defer x.c.mu.Unlock()
	return x.send(ctx, e, 0)
}

// CloseSend tells the peer that no more values come. Recv still works.
func (s *Stream[S, R]) CloseSend() error {
	s.x.c.mu.Lock()
	defer s.x.c.mu.Unlock()
	return s.x.closeSend()
}

// Recv receives the next value. The error is io.EOF after the last one. On the
// caller's side it is the [*Error] of the call if that has failed. If the context
// ends, the caller's side cancels the call, as [Unary.Call] does. After Close it is
// ErrClosed.
func (s *Stream[S, R]) Recv() (R, error) {
	var none R
	if s.closed.Load() {
		return none, ErrClosed
	}
	if s.decoded == len(s.taken) {
		if err := s.take(); err != nil {
			return none, err
		}
	}
	v, err := s.recvs.decode(s.taken[s.decoded])
	s.decodedOne()
	if err != nil {
		return none, &Error{Code: CodeInvalid, Text: fmt.Sprintf("a message: %v", err)}
	}
	return v, nil
}

// All returns an iterator over the received values. If the call fails, the last
// pair has the error. It does not end the call when the loop ends early.
func (s *Stream[S, R]) All() iter.Seq2[R, error] {
	return func(yield func(R, error) bool) {
		for {
			v, err := s.Recv()
			if err == io.EOF { //nolint:errorlint // an Error may match io.EOF
				return
			}
			if !yield(v, err) || err != nil {
				return
			}
		}
	}
}

// take takes the messages that have come, or waits for one.
func (s *Stream[S, R]) take() error {
	if s.failed != nil {
		return s.failed
	}
	x := s.x
	x.c.mu.Lock()
	defer x.c.mu.Unlock()
	err := x.next(s.ctx)
	if errors.Is(err, errConcurrent) || errors.Is(err, ErrClosed) {
		return err
	}
	if s.call != nil && (err != nil || len(x.in.ready) == 0) {
		if err != nil {
			s.call.cancelLocked(s.ctx)
		}
		if err = s.call.outcome(s.ctx); err == nil && len(x.in.ready) == 0 {
			err = io.EOF
		}
	}
	switch {
	case err != nil:
		s.failed = err
	case len(x.in.ready) > 0: // maybe of a success after the cancellation
		s.taken = append(s.taken[:0], x.in.ready...) // all are decoded
		clear(x.in.ready)
		x.in.ready = x.in.ready[:0]
	case x.in.end:
		s.failed = io.EOF
	default:
		s.failed = x.c.err
	}
	return s.failed
}

// decodedOne counts a decoded message, and gives the peer credit for many at once.
func (s *Stream[S, R]) decodedOne() {
	x := s.x
	s.counted += overhead + len(s.taken[s.decoded].b)
	s.decoded++
	if s.decoded < len(s.taken) && s.counted < int(x.c.window)/4 {
		return
	}
	x.c.mu.Lock()
	defer x.c.mu.Unlock()
	for _, m := range s.taken[:s.decoded] {
		x.in.keep(m)
	}
	s.taken = slices.Delete(s.taken, 0, s.decoded)
	x.takenCost(s.counted)
	s.decoded, s.counted = 0, 0
	x.c.flushLocked(quick)
}

// errLeft is why the context of a handler ends if the caller needs no more of a stream.
var errLeft = errors.New("the caller has closed the stream")

// Close ends the call. If the result has not come, Close cancels the call and waits
// until the handler has ended, for [Config.CancelGrace] at most. Then its error matches
// [ErrStillRunning]. A Recv or a Send under way ends with ErrClosed. Close may be
// called again. A handler need not call it.
func (s *Stream[S, R]) Close() error {
	if s.call == nil {
		return s.CloseSend()
	}
	s.closed.Store(true)
	x := s.call
	x.c.mu.Lock()
	defer x.c.mu.Unlock()
	s.stop()
	if !x.done && !x.in.discard && x.c.state != stateDead {
		ctx, cancel := context.WithCancelCause(context.Background())
		cancel(errLeft)
		x.abandonMessages()
		x.signalAll() // a Recv and a Send under way end
		x.cancelLocked(ctx)
	}
	if !x.done && x.c.state != stateDead {
		return localError(x.method, CodeCanceled, ErrStillRunning)
	}
	return nil
}

// newCallerStream returns the caller's side of a call. The end of ctx cancels the
// call, also if nobody uses the stream.
func newCallerStream[S, R any](
	ctx context.Context, x *outgoing, sends *box[S], recvs *box[R],
) *Stream[S, R] {
	stop := context.AfterFunc(ctx, func() {
		x.c.mu.Lock()
		defer x.c.mu.Unlock()
		x.sendCancel(ctx)
	})
	return &Stream[S, R]{x: &x.exchange, ctx: ctx, call: x, stop: stop, sends: sends, recvs: recvs}
}

// newHandlerStream returns the handler's side of a call.
func newHandlerStream[S, R any](x *incoming, sends *box[S], recvs *box[R]) *Stream[S, R] {
	return &Stream[S, R]{x: &x.exchange, ctx: x.given, sends: sends, recvs: recvs}
}

// next waits until a message has come, or none will come. The caller has locked mu.
func (x *exchange) next(ctx context.Context) error {
	in := &x.in
	if in.waits {
		return errConcurrent
	}
	in.waits = true
	defer func() { in.waits, in.demand = false, false }()
	for len(in.ready) == 0 && !x.noMore() {
		if in.discard {
			return ErrClosed
		}
		in.demand = true
		x.grant()
		x.grantOne()
		x.c.flushLocked(quick)
		if len(in.ready) > 0 || x.noMore() {
			break
		}
		if err := x.c.waitLocked(ctx, &in.w); err != nil {
			return err
		}
	}
	return nil
}

// noMore reports whether no further message will come.
func (x *exchange) noMore() bool {
	return x.over || !x.caller && x.in.end || x.c.state == stateDead
}

// send sends a message. It waits for credit. With a large message beyond the credit it
// waits until the kernel has all of it. The caller has locked mu.
func (x *exchange) send(ctx context.Context, e *encoded, last flags) error {
	payload := e.message()
	if uint64(len(payload)) > x.c.peer.message {
		return &Error{Code: CodeTooLarge, Text: fmt.Sprintf(
			"a message of %d bytes; the peer's limit is %d", len(payload), x.c.peer.message)}
	}
	if x.out.waits {
		return errConcurrent
	}
	x.out.waits = true
	defer func() { x.out.waits = false }()
	small := x.hasCredit(len(payload)) ||
		len(payload) <= maxPart && overhead+uint64(len(payload)) <= x.c.peer.window
	if !small {
		x.startSending(payload, last)
		x.c.flushLocked(quick)
	}
	for {
		if err := x.sendError(ctx); err != nil {
			x.dropSending()
			return err
		}
		if !small && x.out.large == nil {
			return nil
		}
		if small && x.maySend(len(payload)) {
			if len(payload) > maxPart {
				x.queueParts(payload, last)
			} else {
				x.out.charge(len(payload))
				x.c.queueEncoded(x.dataHead(flagValue|last), e.buf.Bytes())
			}
			x.c.flushSoon()
			return nil
		}
		x.c.flushLocked(quick)
		if small && x.maySend(len(payload)) || !small && x.out.large == nil {
			continue
		}
		room := &x.c.writing.room
		if small && x.hasCredit(len(payload)) {
			room.add(&x.out.w)
		}
		x.c.waitLocked(ctx, &x.out.w) // sendError returns its error
		room.remove(&x.out.w)
	}
}

// maySend reports whether a message of n bytes can be queued as a whole. After a failed
// write the senders wait for the reason, which ends the connection.
func (x *exchange) maySend(n int) bool {
	return x.hasCredit(n) && len(x.c.writing.out) < maxQueued && x.c.writing.err == nil
}

// sendError returns why nothing can be sent on the call, or nil.
func (x *exchange) sendError(ctx context.Context) error {
	switch {
	case ctx.Err() != nil:
		return neterr.Context(ctx)
	case x.over:
		return io.EOF
	case x.c.state == stateDead:
		return x.c.err
	case x.out.end, x.in.discard:
		return ErrClosed
	}
	return nil
}

func (x *exchange) dataHead(f flags) head {
	if x.caller {
		f |= flagCaller
	}
	return head{opData, f, x.id}
}

// closeSend queues the end of the messages.
func (x *exchange) closeSend() error {
	if x.out.waits {
		return errConcurrent
	}
	if x.out.end || x.over {
		return nil
	}
	x.out.end = true
	x.c.queue(x.dataHead(flagEnd))
	x.c.flushSoon()
	return nil
}
