// Calls has one method of each kind: a request with a reply, streams in either
// direction and in both, and a session (go run ./examples/calls).
package main

import (
	"context"
	"fmt"
	"iter"
	"log"
	"slices"

	"github.com/spawnwire/spawnwire/call"
	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/spawnspec"
)

var (
	square = call.NewUnary[int, int]("square")
	count  = call.NewServerStream[int, int]("count")      // a stream of replies
	sum    = call.NewClientStream[int, int]("sum")        // a stream of requests
	double = call.NewBidi[int, int]("double")             // both at the same time
	guess  = call.NewSession[string, int, string]("game") // the same, after a greeting
)

// worker is the entry of the child.
func worker(ctx context.Context, parent *forkspawn.Parent) error {
	mux := call.NewMux()
	square.Handle(mux, func(_ context.Context, n int) (int, error) { return n * n, nil })
	count.Handle(mux, func(_ context.Context, n int, send func(int) error) error {
		for i := range n {
			if err := send(i + 1); err != nil {
				return err // the caller has left its loop
			}
		}
		return nil
	})
	sum.Handle(mux, func(_ context.Context, numbers iter.Seq2[int, error]) (total int, err error) {
		for n, err := range numbers {
			if err != nil {
				return 0, err
			}
			total += n
		}
		return total, nil
	})
	double.Handle(mux, func(_ context.Context, s *call.Stream[int, int]) error {
		for n, err := range s.All() {
			if err != nil {
				return err
			}
			if err := s.Send(2 * n); err != nil {
				return err
			}
		}
		return nil
	})
	guess.Handle(mux, play)
	return call.Serve(ctx, parent, mux)
}

// play lets the caller guess a number.
func play(_ context.Context, s *call.Stream[string, int], started func(string) error) error {
	if err := started("guess a number from 1 to 10"); err != nil {
		return err
	}
	for n, err := range s.All() {
		answer := "right"
		switch {
		case err != nil:
			return err
		case n < 7:
			answer = "too small"
		case n > 7:
			answer = "too large"
		}
		if err := s.Send(answer); err != nil {
			return err
		}
	}
	return nil
}

func main() {
	forkspawn.Register("worker", worker)
	forkspawn.Init() // in the child: runs worker and exits
	if err := run(context.Background()); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	spawner, err := forkspawn.New(forkspawn.Config{})
	if err != nil {
		return err
	}
	defer spawner.Close()
	child, err := spawner.Spawn(ctx, spawnspec.Spec{Entry: "worker"})
	if err != nil {
		return err
	}
	conn := call.New(child, nil)
	defer conn.Close()
	for _, f := range []func(context.Context, *call.Conn) error{
		unary, serverStream, clientStream, bidi, session,
	} {
		if err := f(ctx, conn); err != nil {
			return err
		}
	}
	return nil
}

func unary(ctx context.Context, conn *call.Conn) error {
	n, err := square.Call(ctx, conn, 12)
	fmt.Println("square:", n)
	return err
}

func serverStream(ctx context.Context, conn *call.Conn) error {
	for n, err := range count.Call(ctx, conn, 1_000_000) {
		if err != nil {
			return err
		}
		fmt.Println("count:", n)
		if n == 3 {
			break // cancels the call
		}
	}
	return nil
}

func clientStream(ctx context.Context, conn *call.Conn) error {
	total, err := sum.Call(ctx, conn, slices.Values([]int{1, 2, 3}))
	fmt.Println("sum:", total)
	return err
}

func bidi(ctx context.Context, conn *call.Conn) error {
	s, err := double.Open(ctx, conn)
	if err != nil {
		return err
	}
	defer s.Close()
	if err := s.Send(21); err != nil {
		return err
	}
	n, err := s.Recv()
	fmt.Println("double:", n)
	return err
}

func session(ctx context.Context, conn *call.Conn) error {
	greeting, s, err := guess.Open(ctx, conn)
	if err != nil {
		return err
	}
	defer s.Close()
	fmt.Println("session:", greeting)
	for _, n := range []int{5, 7} {
		if err := s.Send(n); err != nil {
			return err
		}
		answer, err := s.Recv()
		if err != nil {
			return err
		}
		fmt.Println("session:", n, "is", answer)
	}
	return s.CloseSend()
}
