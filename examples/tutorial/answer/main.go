// Answer starts a child that counts prime numbers, and asks it once.
package main

import (
	"context"
	"fmt"
	"log"

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
	spawner, err := forkspawn.New(forkspawn.Config{})
	if err != nil {
		return err
	}
	defer spawner.Close() // stops all children

	child, err := spawner.Spawn(ctx, spawnspec.Spec{Entry: "worker"})
	if err != nil {
		return err
	}
	conn := call.New(child, nil)
	defer conn.Close()
	count, err := countPrimes.Call(ctx, conn, 1000)
	if err != nil {
		return err
	}
	fmt.Println(count, "primes below 1000")
	return nil
}
