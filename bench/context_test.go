package bench

import (
	"context"
	"testing"
	"time"
)

// BenchmarkContext measures what a context that can end costs a round trip, beside one that cannot:
// "extra-ns" is for the two operations, a send and a receive that blocks. The context is one for all, or a new one
// for each round trip, which the floor makes and does not use.
func BenchmarkContext(b *testing.B) {
	never := context.Background()
	for _, test := range []struct {
		name string
		make func(context.Context) (context.Context, context.CancelFunc)
	}{
		{"one", func(ctx context.Context) (context.Context, context.CancelFunc) { return ctx, func() {} }},
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
