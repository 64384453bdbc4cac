//go:build unix

package siblings_test

import (
	"context"
	"fmt"
	"log"

	"github.com/spawnwire/spawnwire/call"
	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/forkspawn/siblings"
	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/spawnspec"
)

var (
	get  = call.NewUnary[string, string]("store.get") // of the store, for its siblings
	work = call.NewUnary[string, string]("work")      // of the worker, for the parent
)

// store is an entry. It serves its siblings.
func store(ctx context.Context, parent *forkspawn.Parent) error {
	mux := call.NewMux() // for the parent
	stop := siblings.Accept(ctx, mux, parent, func(ctx context.Context, peer *handshake.Peer) {
		own := call.NewMux() // for the sibling
		get.Handle(own, func(_ context.Context, key string) (string, error) {
			return "the " + key + " for the " + peer.Name, nil
		})
		call.Serve(ctx, call.Over(peer.Channel), own)
	})
	defer stop()
	return call.Serve(ctx, parent, mux)
}

// worker is an entry. It asks the store, without its parent between them.
func worker(ctx context.Context, parent *forkspawn.Parent) error {
	mux := call.NewMux()
	work.Handle(mux, func(ctx context.Context, key string) (string, error) {
		peer, err := siblings.Dial(ctx, call.ConnOf(ctx), "store")
		if err != nil {
			return "", err
		}
		defer peer.Close()
		conn := call.New(call.Over(peer.Channel), nil)
		defer conn.Close()
		return get.Call(ctx, conn, key)
	})
	return call.Serve(ctx, parent, mux)
}

func init() {
	forkspawn.Register("store", store)
	forkspawn.Register("worker", worker)
}

func Example() {
	ctx := context.Background()
	spawner, err := forkspawn.New(forkspawn.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer spawner.Close()
	mux := call.NewMux()
	group := siblings.New(mux, func(from, to *forkspawn.Child) bool { return to.Name() == "store" })
	conns := map[string]*call.Conn{}
	for _, name := range []string{"store", "worker"} {
		child, err := spawner.Spawn(ctx, spawnspec.Spec{Entry: name})
		if err != nil {
			log.Fatal(err)
		}
		conn := call.New(child, mux)
		defer conn.Close()
		group.Add(child, conn)
		conns[name] = conn
	}
	fmt.Println(work.Call(ctx, conns["worker"], "blueprint"))
	// Output: the blueprint for the worker <nil>
}
