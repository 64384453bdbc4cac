//go:build unix

package forkspawn_test

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log"
	"os"
	"sync"
	"time"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// The entry "echo" was registered before Init; see the package comment.
func ExampleSpawner_Spawn() {
	spawner, err := forkspawn.New(forkspawn.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer spawner.Close()

	ctx := context.Background()
	child, err := spawner.Spawn(ctx, spawnspec.Spec{Name: "echo-1", Entry: "echo"})
	if err != nil {
		log.Fatal(err)
	}
	var reply string
	if err := child.Send(ctx, "hello"); err != nil {
		log.Fatal(err)
	}
	if err := child.Recv(ctx, &reply); err != nil {
		log.Fatal(err)
	}
	fmt.Println(reply)
	result, err := child.Stop(ctx)
	fmt.Println(result, err)
	// Output:
	// hello
	// ended as asked: exit status 0 <nil>
}

// What went wrong is in the error's fields, and errors.Is finds the cause.
func ExampleBootError() {
	spawner, err := forkspawn.New(forkspawn.Config{Stderr: forkspawn.Capture(nil)})
	if err != nil {
		log.Fatal(err)
	}
	defer spawner.Close()

	_, err = spawner.SpawnCommand(context.Background(), forkspawn.Command{
		Path: "sh", Args: []string{"-c", "echo cannot open the moon >&2; exit 3"},
	}, spawnspec.Spec{Name: "moon"})
	var boot *forkspawn.BootError
	if errors.As(err, &boot) {
		fmt.Println(boot.Phase, "|", boot.Status, "|", boot.Stderr)
	}
	fmt.Println(errors.Is(err, forkspawn.ErrDied))

	_, err = spawner.Spawn(context.Background(), spawnspec.Spec{Entry: "no-such-entry"})
	fmt.Println(errors.Is(err, handshake.ErrUnknownEntry))
	// Output:
	// connect | exit status 3 | cannot open the moon
	//
	// true
	// true
}

// A program of its own joins the process that spawned it.
func ExampleJoin() {
	parent, err := forkspawn.Join(context.Background())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer parent.Close(0, "")
	parent.Send(parent.Context(), "here I am")
	// Output:
	// forkspawn: not a spawned process: SPAWNWIRE_TICKET is not set
}

// The fork helper starts any program with nothing but stdio.
func ExampleStartProcess() {
	proc, err := forkspawn.StartProcess(forkspawn.ProcessAttr{
		Command: forkspawn.Command{Path: "sh", Args: []string{"-c", "echo from the child; exit 4"}},
		Stdout:  os.Stdout,
	})
	if err != nil {
		log.Fatal(err)
	}
	status := proc.Wait()
	fmt.Println(status, status.Success())
}

// Children that live and die together: the first failure ends all of them.
func ExampleGroup() {
	spawner, err := forkspawn.New(forkspawn.Config{Stderr: forkspawn.Capture(nil)})
	if err != nil {
		log.Fatal(err)
	}
	defer spawner.Close()

	group, err := spawner.NewGroup(context.Background(), forkspawn.GroupConfig{})
	if err != nil {
		log.Fatal(err)
	}
	for _, word := range []string{"hello", "world"} {
		group.Go(spawnspec.Spec{Entry: "echo"}, func(ctx context.Context, child *forkspawn.Child) error {
			var reply string
			if err := child.Send(ctx, word); err != nil {
				return err
			}
			return child.Recv(ctx, &reply)
		})
	}
	fmt.Println(group.Wait())

	group, _ = spawner.NewGroup(context.Background(), forkspawn.GroupConfig{})
	group.Go(spawnspec.Spec{Entry: "sleep"}, nil) // would live for ever
	group.Go(spawnspec.Spec{Name: "unlucky", Entry: "fail"}, nil)
	var exit *forkspawn.ExitError
	errors.As(group.Wait(), &exit)
	fmt.Println(exit.Name, "|", exit.Status, "|", exit.Said)
	// Output:
	// <nil>
	// unlucky | exit status 1 | no luck today
}

// A child that fails is started anew, with a pause before it that grows, and not for ever.
func ExampleRestartPolicy() {
	spawner, err := forkspawn.New(forkspawn.Config{
		Stderr: forkspawn.Capture(nil),
		Trace: &forkspawn.Trace{
			Restarting: func(e forkspawn.ChildEvent, r forkspawn.RestartInfo) {
				fmt.Println(e.Name, "restart", r.Restarts, "after", r.Pause)
			},
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer spawner.Close()

	group, err := spawner.NewGroup(context.Background(), forkspawn.GroupConfig{
		Restart: forkspawn.RestartPolicy{When: forkspawn.RestartOnFailure, MinPause: time.Millisecond, Limit: 2},
	})
	if err != nil {
		log.Fatal(err)
	}
	group.Go(spawnspec.Spec{Name: "crasher", Entry: "exit", Args: 3}, nil)
	var often *forkspawn.RestartError
	fmt.Println(errors.As(group.Wait(), &often))
	// Output:
	// crasher restart 1 after 1ms
	// crasher restart 2 after 2ms
	// true
}

// Ctrl-C asks the children to stop, a second one makes it shorter.
func ExampleSpawner_NotifyContext() {
	spawner, err := forkspawn.New(forkspawn.Config{})
	if err != nil {
		log.Fatal(err)
	}
	ctx, stop := spawner.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	defer spawner.Close() // first

	child, err := spawner.Spawn(ctx, spawnspec.Spec{Entry: "echo"})
	if err != nil {
		log.Fatal(err)
	}
	child.Send(ctx, "until somebody presses Ctrl-C")
}

// A table is loaded once, in a template, and the children that are forked from it have it, each with a hash seed of its own.
func ExampleAfterFork() {
	words := sync.OnceValue(func() map[string]int {
		return map[string]int{"hello": 1, "world": 2} // or what takes minutes
	})
	seed := maphash.MakeSeed()

	forkspawn.RegisterWarmUp("words", func() error {
		words()
		return nil
	})
	forkspawn.AfterFork(func() error {
		seed = maphash.MakeSeed() // the template's would be that of all children
		return nil
	})
	forkspawn.Register("look up", func(ctx context.Context, parent *forkspawn.Parent) error {
		return parent.Send(ctx, []any{words()["world"], maphash.String(seed, "world")})
	})
	forkspawn.Init() // in the template: warms up, and forks; in a child: runs the entry

	spawner, err := forkspawn.New(forkspawn.Config{
		Method: forkspawn.MethodForkserver, WarmUp: "words",
		ForkserverFallback: true, // executes children where they cannot be forked: then each loads the words itself
	})
	if err != nil {
		log.Fatal(err)
	}
	defer spawner.Close()
	if err := spawner.Warm(context.Background()); err != nil {
		log.Fatal(err)
	}
	child, err := spawner.Spawn(context.Background(), spawnspec.Spec{Entry: "look up"})
	if err != nil {
		log.Fatal(err)
	}
	var found []any
	fmt.Println(child.Recv(context.Background(), &found), found)
}
