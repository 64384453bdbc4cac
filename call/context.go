package call

import (
	"context"
	"sync"
	"time"
)

// handlerContext is the context of a handler. It makes a context of package context
// when something other than Err, Deadline or the metadata is asked for, because
// most handlers do not ask.
type handlerContext struct {
	base     context.Context // of the connection
	metadata Metadata
	deadline time.Time // zero if there is none

	mu     sync.Mutex // guards the rest
	cause  error      // set when the context was cancelled
	full   context.Context
	cancel context.CancelCauseFunc
	free   context.CancelFunc // releases the deadline's timer
}

var _ context.Context = (*handlerContext)(nil)

func (h *handlerContext) Deadline() (time.Time, bool) {
	own := !h.deadline.IsZero()
	if base, ok := h.base.Deadline(); ok && (!own || base.Before(h.deadline)) {
		return base, true
	}
	return h.deadline, own
}

func (h *handlerContext) Done() <-chan struct{} { return h.context().Done() }

func (h *handlerContext) Err() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.full != nil:
		return h.full.Err()
	case h.cause != nil:
		return context.Canceled
	case h.base.Err() != nil:
		return h.base.Err()
	case !h.deadline.IsZero() && !time.Now().Before(h.deadline):
		return context.DeadlineExceeded
	}
	return nil
}

func (h *handlerContext) Value(key any) any {
	if key == (metadataKey{}) {
		return h.metadata
	}
	return h.context().Value(key)
}

// context returns the full context.
func (h *handlerContext) context() context.Context {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.full == nil {
		h.full, h.cancel = context.WithCancelCause(h.base)
		if h.cause != nil {
			h.cancel(h.cause)
		}
		if !h.deadline.IsZero() {
			h.full, h.free = context.WithDeadline(h.full, h.deadline)
		}
	}
	return h.full
}

// end cancels the context. The first cause counts.
func (h *handlerContext) end(cause error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.cause == nil {
		h.cause = cause
	}
	if h.full != nil {
		h.cancel(cause)
		if h.free != nil {
			h.free()
		}
	}
}
