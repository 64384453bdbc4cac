// Three is a host with a plugin in Go, in Python and in Node.js. It kills each plugin
// in the middle of a call, and the group starts it again.
//
//	go build -o /tmp/shout ./examples/plugin/shout
//	go run ./examples/plugin/three /tmp/shout "python3 examples/plugin/shout.py" \
//		"node examples/plugin/shout.mjs"
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/spawnwire/spawnwire/call"
	"github.com/spawnwire/spawnwire/examples/plugin/words"
	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/spawnspec"
)

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		log.Fatal(err)
	}
}

// run uses all plugins at the same time. Each command has the program and arguments.
func run(ctx context.Context, commands []string) error {
	spawner, err := forkspawn.New(forkspawn.Config{Stderr: forkspawn.Capture(nil)})
	if err != nil {
		return err
	}
	defer spawner.Close()
	group, err := spawner.NewGroup(ctx, forkspawn.GroupConfig{Restart: forkspawn.RestartOnFailure})
	if err != nil {
		return err
	}
	for _, command := range commands {
		name, starts := command[strings.LastIndex(command, "/")+1:], 0
		args := strings.Fields(command)
		err := group.Go(spawnspec.Spec{Name: name, Entry: "plugin"},
			func(ctx context.Context, plugin *forkspawn.Child) error {
				starts++
				return use(ctx, plugin, starts)
			}, forkspawn.WithCommand(forkspawn.Command{Path: args[0], Args: args[1:]}))
		if err != nil {
			return err
		}
	}
	return group.Wait()
}

// use makes calls. It kills the plugin at its first start, and so returns an error.
func use(ctx context.Context, plugin *forkspawn.Child, start int) error {
	mux := call.NewMux() // the methods for the plugin
	words.Owner.Handle(mux, func(context.Context, struct{}) (string, error) {
		return "the host of " + plugin.Name(), nil
	})
	conn := call.New(plugin, mux)
	defer conn.Close()

	text, err := words.Change.Call(ctx, conn, "hello") // calls words.Owner meanwhile
	if err != nil {
		return err
	}
	fmt.Println(text)
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	_, err = words.Wait.Call(short, conn, struct{}{})
	fmt.Println(plugin.Name(), "has ended its call in time:",
		errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, call.ErrStillRunning))
	for word, err := range words.Split.Call(ctx, conn, strings.Repeat("many words ", 30_000)) {
		if err != nil {
			fmt.Println(plugin.Name(), "was killed:", errors.As(err, new(*forkspawn.ExitError)))
			return err
		}
		if start > 1 {
			fmt.Println(plugin.Name(), "has sent", word)
			break // ends the call
		}
		plugin.Signal(syscall.SIGKILL)
	}
	fmt.Println(plugin.Name(), "is done after", start, "starts")
	return nil
}
