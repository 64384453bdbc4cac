package bench

import (
	"context"
	"testing"
	"time"
)

// BenchmarkContext measures the cost of a cancellable context for a round trip.
// The floor uses context.Background. "extra-ns" is the difference for a send and
// a receive together. With "each", every round trip makes a new context, and so
// does the floor without using it.
func BenchmarkContext(b *testing.B) {
	never := context.Background()
	for _, test := range []struct {
		name string
		make func(context.Context) (context.Context, context.CancelFunc)
	}{
		{"one", func(ctx context.Context) (context.Context, context.CancelFunc) {
			return ctx, func() {}
		}},
		{"cancel each", context.WithCancel},
		{"timeout each", func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, time.Minute)
		}},
	} {
		b.Run(test.name, func(b *testing.B) {
			ch, _ := withEcho(b, "uds", false, 32)
			parent, cancel := context.WithCancel(never)
			defer cancel()
			buf := make([]byte, 32)
			trip := func(with bool) func() error {
				return func() error {
					ctx, cancel := test.make(parent)
					defer cancel()
					if !with {
						ctx = never
					}
					if err := ch.SendBytes(ctx, buf); err != nil {
						return err
					}
					_, err := ch.RecvBytes(ctx, buf)
					return err
				}
			}
			duel(b, "none", block, times(trip(true)), times(trip(false)))
		})
	}
}
