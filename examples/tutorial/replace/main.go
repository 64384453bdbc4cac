// Replace has a pool of workers that replaces a worker when it dies.
package main

import (
	"context"
	"fmt"
	"log"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spawnwire/spawnwire/call"
	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// countPrimes is a method of the children: how many primes are below a number?
var countPrimes = call.NewUnary[int, int]("count primes")

// worker is the entry of the children. It serves countPrimes.
func worker(ctx context.Context, parent *forkspawn.Parent) error {
	mux := call.NewMux()
	countPrimes.Handle(mux, func(ctx context.Context, n int) (int, error) {
		return primesBelow(n), nil
	})
	return call.Serve(ctx, parent, mux) // until the parent asks us to stop, or dies
}

func primesBelow(n int) (count int) {
	for i := 2; i < n; i++ {
		prime := true
		for d := 2; d*d <= i && prime; d++ {
			prime = i%d != 0
		}
		if prime {
			count++
		}
	}
	return count
}

func main() {
	forkspawn.Register("worker", worker)
	forkspawn.Init() // in a child: runs the entry and exits
	if err := run(context.Background()); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	spawner, err := forkspawn.New(forkspawn.Config{Trace: &forkspawn.Trace{
		Restarting: func(e forkspawn.ChildEvent, _ int, _ time.Duration, cause error) {
			fmt.Println("replace a worker:", cause)
		},
	}})
	if err != nil {
		return err
	}
	defer spawner.Close() // stops all children
	group, err := spawner.NewGroup(ctx, forkspawn.GroupConfig{
		Restart: forkspawn.RestartOnFailure,
	})
	if err != nil {
		return err
	}

	var last atomic.Int64
	next := func() int { return int(last.Add(1000)) } // the jobs: 1000, 2000, ...
	var kill sync.Once
	for i := range 4 {
		spec := spawnspec.Spec{Name: fmt.Sprintf("worker-%d", i+1), Entry: "worker"}
		n := next() // outlives a worker, so that its successor gets the same job
		group.Go(spec, func(ctx context.Context, child *forkspawn.Child) error {
			conn := call.New(child, nil)
			defer conn.Close()
			for n <= 20000 {
				count, err := countPrimes.Call(ctx, conn, n)
				if err != nil {
					return err // the group starts another worker and calls this again
				}
				fmt.Println(count, "primes below", n)
				n = next()
				kill.Do(func() { child.Signal(syscall.SIGKILL) }) // stands for a crash
			}
			return nil // the group stops the child
		})
	}
	return group.Wait()
}
