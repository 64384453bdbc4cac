package transport

import "context"

// turn is the right to read, which one goroutine has at a time. It is a channel and not
// a mutex because it is held over blocking input and output, so whoever waits for it must be able to
// give up.
type turn chan struct{}

func newTurn() turn { return make(turn, 1) }

// take waits for the turn until the context ends or closed does.
func (t turn) take(ctx context.Context, closed <-chan struct{}) error {
	select {
	case t <- struct{}{}:
		return nil
	default:
	}
	select {
	case t <- struct{}{}:
		return nil
	case <-ctx.Done():
		return newContextError(ctx)
	case <-closed:
		return ErrClosed
	}
}

func (t turn) give() { <-t }
