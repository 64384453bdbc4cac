package forkspawn_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// A program calls Register in main, before Init.
func init() { forkspawn.Register("ledger", ledger) }

// ledger is the entry of a child that outlives its host. It keeps a total, and adds what
// its hosts send.
func ledger(_ context.Context, parent *forkspawn.Parent) (err error) {
	var total atomic.Int64
	for err == nil {
		go serveHost(parent, &total) // until this host releases us
		parent, err = parent.Next(parent.Context())
	}
	return err // asked to stop, or nobody has come
}

func serveHost(parent *forkspawn.Parent, total *atomic.Int64) {
	var amount int64
	for parent.Recv(parent.Context(), &amount) == nil {
		parent.Send(parent.Context(), total.Add(amount))
	}
}

// A host releases its child before it restarts, and its next process takes the child
// over.
func ExampleChild_Release() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "ledger.handle")

	// The first process of the host.
	first, err := forkspawn.New(forkspawn.Config{
		Command: forkspawn.Command{Releasable: true},
		Stderr:  forkspawn.Inherit(), // or forkspawn.File with a log
	})
	if err != nil {
		log.Fatal(err)
	}
	child, err := first.Spawn(ctx, spawnspec.Spec{Entry: "ledger"})
	if err != nil {
		log.Fatal(err)
	}
	book(ctx, child, 40)
	handle, err := child.Release(ctx, 10*time.Minute)
	if err != nil {
		log.Fatal(err)
	}
	text, err := json.Marshal(handle)
	if err == nil {
		err = os.WriteFile(file, text, 0o600) // who can read it can take the child over
	}
	if err != nil {
		log.Fatal(err)
	}
	first.Close()

	// The next process of the host.
	second, err := forkspawn.New(forkspawn.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer second.Close()
	text, err = os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(text, &handle)
	}
	if err == nil {
		child, err = second.Reattach(ctx, handle)
	}
	if err != nil {
		log.Fatal(err) // the ledger is gone, and Spawn starts another
	}
	book(ctx, child, 2)
	// Output:
	// 40
	// 42
}

func book(ctx context.Context, child *forkspawn.Child, amount int64) {
	var total int64
	err := child.Send(ctx, amount)
	if err == nil {
		err = child.Recv(ctx, &total)
	}
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(total)
}
