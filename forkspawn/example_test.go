//go:build unix

package forkspawn_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
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

// The error's fields have the phase, the exit status and the last lines of
// stderr. errors.Is finds the cause.
func ExampleBootError() {
	spawner, err := forkspawn.New(forkspawn.Config{Stderr: forkspawn.Capture(nil)})
	if err != nil {
		log.Fatal(err)
	}
	defer spawner.Close()

	_, err = spawner.Spawn(context.Background(), spawnspec.Spec{Name: "moon"},
		forkspawn.WithCommand(forkspawn.Command{
			Path: "sh", Args: []string{"-c", "echo cannot open the moon >&2; exit 3"},
		}))
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

// A program without Init joins the process that spawned it.
func ExampleJoin() {
	parent, err := forkspawn.Join(context.Background(), forkspawn.JoinConfig{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer parent.Close(0, "")
	parent.Send(parent.Context(), "here I am")
	// Output:
	// forkspawn: join: not a spawned process: SPAWNWIRE_TICKET is not set
}

// StartProcess starts any program. The program inherits only stdin, stdout and
// stderr.
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
	// Output:
	// from the child
	// exit status 4 false
}

// The first failure ends all children of a group.
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
		group.Go(spawnspec.Spec{Entry: "echo"},
			func(ctx context.Context, child *forkspawn.Child) error {
				var reply string
				if err := child.Send(ctx, word); err != nil {
					return err
				}
				return child.Recv(ctx, &reply)
			})
	}
	fmt.Println(group.Wait())

	group, _ = spawner.NewGroup(context.Background(), forkspawn.GroupConfig{})
	group.Go(spawnspec.Spec{Entry: "waits"}, nil) // ends only with the group
	group.Go(spawnspec.Spec{Name: "unlucky", Entry: "fails"}, nil)
	var exit *forkspawn.ExitError
	errors.As(group.Wait(), &exit)
	fmt.Println(exit.Name, "|", exit.Status, "|", exit.Said)
	// Output:
	// <nil>
	// unlucky | exit status 1 | no luck today
}

// A child that fails is started again, after a pause that grows, and not without
// limit.
func ExampleGroupConfig() {
	spawner, err := forkspawn.New(forkspawn.Config{
		Stderr: forkspawn.Capture(nil),
		Trace: &forkspawn.Trace{
			Restarting: func(e forkspawn.ChildEvent, restarts int, pause time.Duration, _ error) {
				fmt.Println(e.Name, "restart", restarts, "after", pause)
			},
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer spawner.Close()

	group, err := spawner.NewGroup(context.Background(), forkspawn.GroupConfig{
		Restart: forkspawn.RestartOnFailure, MinPause: time.Millisecond, MaxRestarts: 2,
	})
	if err != nil {
		log.Fatal(err)
	}
	group.Go(spawnspec.Spec{Name: "crasher", Entry: "exits", Args: 3}, nil)
	var often *forkspawn.RestartError
	fmt.Println(errors.As(group.Wait(), &often))
	// Output:
	// crasher restart 1 after 1ms
	// crasher restart 2 after 2ms
	// true
}
