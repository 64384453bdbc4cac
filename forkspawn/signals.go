package forkspawn

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"sync"
)

// SignalError is the cause of a context that a signal has ended; see
// [Spawner.NotifyContext]. It matches [context.Canceled].
type SignalError struct{ Signal os.Signal }

func (e *SignalError) Error() string { return fmt.Sprintf("forkspawn: signal: %v", e.Signal) }

// Is reports whether target is context.Canceled.
func (e *SignalError) Is(target error) bool { return target == context.Canceled }

// NotifyContext is like [signal.NotifyContext], for a program with children. The
// first of the signals ends the returned context, with a [*SignalError] as its
// cause. Each further signal calls [Spawner.Hasten]. So after a first Ctrl-C in a
// terminal the program asks its children to stop. A second one sends them
// SIGTERM without further waiting, and a third one SIGKILL.
//
// A Ctrl-C in a terminal reaches this process only, because each child has a
// process group of its own.
//
// stop restores the former behavior of the signals. The caller calls it after the
// Spawner is closed, and not as soon as the context has ended.
func (s *Spawner) NotifyContext(
	parent context.Context, signals ...os.Signal,
) (ctx context.Context, stop context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(parent)
	return ctx, s.notify(signals, signalStep{ctx, cancel})
}

// NotifyDrain is like [Spawner.NotifyContext], for a program that can finish its work.
// The first of the signals ends accepting, a context for taking new work. The second
// one ends ctx, for the work itself, and with it accepting. Each further signal calls
// [Spawner.Hasten]. So after a first Ctrl-C no new work is taken, and after a second
// one all work stops.
//
// The program ends when its work is done. It bounds that time itself, because a
// service manager sends one SIGTERM only.
func (s *Spawner) NotifyDrain(
	parent context.Context, signals ...os.Signal,
) (accepting, ctx context.Context, stop context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(parent)
	accepting, drain := context.WithCancelCause(ctx)
	return accepting, ctx, s.notify(signals, signalStep{accepting, drain}, signalStep{ctx, cancel})
}

// signalStep is a context that a signal ends.
type signalStep struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
}

// notify ends, at each signal, the first context that has not ended. If all have, it
// calls Hasten. stop ends this, and all contexts.
func (s *Spawner) notify(signals []os.Signal, steps ...signalStep) (stop context.CancelFunc) {
	arrived := make(chan os.Signal, 8)
	signal.Notify(arrived, signals...)
	ended := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() {
		for {
			select {
			case sig := <-arrived:
				next := slices.IndexFunc(steps, func(st signalStep) bool {
					return st.ctx.Err() == nil
				})
				if next >= 0 {
					steps[next].cancel(&SignalError{sig})
				} else {
					s.Hasten()
				}
			case <-ended:
				return
			}
		}
	})
	var once sync.Once
	return func() {
		once.Do(func() {
			signal.Stop(arrived)
			close(ended)
			watch.Wait()
			for _, st := range steps {
				st.cancel(context.Canceled)
			}
		})
	}
}
