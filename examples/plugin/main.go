// Plugin starts another program as a plugin, calls it, and survives its crash.
//
//	go build -o /tmp/shout ./examples/plugin/shout
//	go run ./examples/plugin /tmp/shout
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/spawnwire/spawnwire/call"
	"github.com/spawnwire/spawnwire/examples/plugin/words"
	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/spawnspec"
)

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: plugin PROGRAM")
	}
	if err := run(context.Background(), os.Args[1]); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, program string) error {
	spawner, err := forkspawn.New(forkspawn.Config{
		Command: forkspawn.Command{Path: program},
		Stderr:  forkspawn.Capture(nil), // only for errors
	})
	if err != nil {
		return err
	}
	defer spawner.Close()
	child, err := spawner.Spawn(ctx, spawnspec.Spec{Name: "plugin"})
	if err != nil {
		return err // for example: no such file, or not a plugin
	}

	mux := call.NewMux() // the methods for the plugin
	words.Owner.Handle(mux, func(context.Context, struct{}) (string, error) {
		return "the host", nil
	})
	conn := call.New(child, mux)
	defer conn.Close()

	ctx, cancel := context.WithTimeout(ctx, 10*time.Second) // also ends the handler
	defer cancel()
	text, err := words.Change.Call(ctx, conn, "hello")
	if err != nil {
		return err
	}
	fmt.Println(text)

	_, err = words.Change.Call(ctx, conn, "") // the plugin has a bug
	var failed *call.Error
	if errors.As(err, &failed) {
		fmt.Println(failed.Code+":", failed.Text)
	}
	status, err := child.Wait(ctx)
	fmt.Println("the plugin has ended:", status)
	return err
}
