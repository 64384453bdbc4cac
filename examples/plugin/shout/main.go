// Shout is a plugin of examples/plugin. It is a program of its own.
package main

import (
	"context"
	"log"
	"strings"

	"github.com/spawnwire/spawnwire/call"
	"github.com/spawnwire/spawnwire/examples/plugin/words"
	"github.com/spawnwire/spawnwire/forkspawn"
)

func main() {
	parent, err := forkspawn.Join(context.Background(), forkspawn.JoinConfig{})
	if err != nil {
		log.Fatal(err) // started by hand, for example
	}
	mux := call.NewMux()
	words.Change.Handle(mux, change)
	words.Split.Handle(mux, split)
	words.Wait.Handle(mux, func(ctx context.Context, none struct{}) (struct{}, error) {
		<-ctx.Done()
		return none, ctx.Err()
	})
	parent.Exit(call.Serve(parent.Context(), parent, mux)) // with 0 if the host asked us to stop
}

func change(ctx context.Context, text string) (string, error) {
	if text == "" {
		panic("nothing to shout") // stands for a bug
	}
	owner, err := words.Owner.Call(ctx, call.ConnOf(ctx), struct{}{}) // asks the host
	if err != nil {
		return "", err
	}
	return owner + " SHOUTS: " + strings.ToUpper(text), nil
}

func split(_ context.Context, text string, send func(string) error) error {
	for word := range strings.FieldsSeq(text) {
		if err := send(word); err != nil {
			return err
		}
	}
	return nil
}
