// Kv is the example "bidirectional" of go-plugin, with this library: a host, and a plugin
// that keeps numbers in files. To add to a number, the plugin calls the host.
//
//	go run ./examples/plugin/kv put answer 40
//	go run ./examples/plugin/kv put answer 2
//	go run ./examples/plugin/kv get answer
package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"os"
	"strconv"

	"github.com/spawnwire/spawnwire/call"
	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// The host and the plugin share these.
type (
	item    struct{ Key, Value string }
	numbers struct{ A, B int }
)

var (
	put = call.NewUnary[item, struct{}]("kv.put")
	get = call.NewUnary[string, string]("kv.get")
	sum = call.NewUnary[numbers, int]("host.sum")
)

// plugin is the entry of the child.
func plugin(ctx context.Context, host *forkspawn.Parent) error {
	mux := call.NewMux()
	put.Handle(mux, func(ctx context.Context, it item) (none struct{}, err error) {
		old, err := os.ReadFile("kv_" + it.Key)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return none, err
		}
		a, _ := strconv.Atoi(string(old)) // 0 at first
		b, err := strconv.Atoi(it.Value)
		if err != nil {
			return none, err
		}
		total, err := sum.Call(ctx, call.ConnOf(ctx), numbers{a, b})
		if err != nil {
			return none, err
		}
		return none, os.WriteFile("kv_"+it.Key, []byte(strconv.Itoa(total)), 0o644)
	})
	get.Handle(mux, func(_ context.Context, key string) (string, error) {
		value, err := os.ReadFile("kv_" + key)
		return string(value), err
	})
	return call.Serve(ctx, host, mux)
}

func main() {
	forkspawn.Register("kv", plugin)
	forkspawn.Init() // in the child: runs the plugin and exits
	if err := run(context.Background(), os.Args[1:]); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, args []string) error {
	spawner, err := forkspawn.New(forkspawn.Config{})
	if err != nil {
		return err
	}
	defer spawner.Close()
	child, err := spawner.Spawn(ctx, spawnspec.Spec{Name: "kv", Entry: "kv"})
	if err != nil {
		return err
	}
	mux := call.NewMux()
	sum.Handle(mux, func(_ context.Context, n numbers) (int, error) { return n.A + n.B, nil })
	conn := call.New(child, mux)
	defer conn.Close()
	switch {
	case len(args) == 2 && args[0] == "get":
		value, err := get.Call(ctx, conn, args[1])
		fmt.Println(value)
		return err
	case len(args) == 3 && args[0] == "put":
		_, err := put.Call(ctx, conn, item{args[1], args[2]})
		return err
	}
	return errors.New("usage: kv get KEY, kv put KEY NUMBER")
}
