package forkspawn

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"sync"
)

// SignalError is the cause of a context of NotifyContext that a signal has ended. It matches context.Canceled.
type SignalError struct{ Signal os.Signal }

func (e *SignalError) Error() string { return fmt.Sprintf("forkspawn: signal: %v", e.Signal) }

// Is makes the error match context.Canceled.
func (e *SignalError) Is(target error) bool { return target == context.Canceled }

// NotifyContext is signal.NotifyContext for a program with children: the context that it returns ends with
// the first of the signals that arrives, and its cause is a [*SignalError]. Each further one hastens
// the Spawner's stops (see Hasten): so a first Ctrl-C in a terminal asks the children to stop, a
// second sends them SIGTERM without waiting any longer, and a third SIGKILL.
//
// A terminal's own signal reaches this process and not its children, which are in process groups of their own: each is told
// once, by this process.
//
// stop gives the signals back their former meaning. Call it when the Spawner is closed, and not as soon as the
// context has ended.
func (s *Spawner) NotifyContext(parent context.Context, signals ...os.Signal) (ctx context.Context, stop context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(parent)
	arrived := make(chan os.Signal, 8)
	signal.Notify(arrived, signals...)
	ended := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() {
		for {
			select {
			case sig := <-arrived:
				if ctx.Err() == nil {
					cancel(&SignalError{sig})
				} else {
					s.Hasten()
				}
			case <-ended:
				return
			}
		}
	})
	var once sync.Once
	return ctx, func() {
		once.Do(func() {
			signal.Stop(arrived)
			close(ended)
			watch.Wait()
			cancel(context.Canceled)
		})
	}
}
