//go:build unix

package roles

import (
	"context"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// runsJob is a program in a terminal. It has three children, and ends them on
// Ctrl-C. Its argument is their entry.
func runsJob(context.Context) error {
	os.Unsetenv(testkit.RoleEnv) // the children play no role
	entry := os.Args[1]
	s, err := forkspawn.New(forkspawn.Config{StopGrace: time.Hour, TermGrace: time.Hour,
		Trace: &forkspawn.Trace{
			Signalled: func(_ forkspawn.ChildEvent, sig syscall.Signal, _ bool, _ error) {
				fmt.Println("sent", sig)
			},
		}})
	if err != nil {
		return err
	}
	ctx, stop := s.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var children []*forkspawn.Child
	for range 3 {
		c, err := s.Spawn(ctx, spawnspec.Spec{Entry: entry, Args: len(os.Args) > 2})
		if err != nil {
			return err
		}
		var ready string
		if err := c.Recv(ctx, &ready); err != nil {
			return err
		}
		children = append(children, c)
	}
	fmt.Println("pids", children[0].PID(), children[1].PID(), children[2].PID())
	<-ctx.Done()
	fmt.Println("ended:", context.Cause(ctx))
	if entry == "ignores-requests" {
		return closeAndReport(s, children)
	}
	for _, c := range children {
		var interrupts int
		if err := c.RequestStop(context.Background(), "Ctrl-C"); err != nil {
			return err
		}
		if err := c.Recv(context.Background(), &interrupts); err != nil {
			return err
		}
		result, err := c.Stop(context.Background())
		fmt.Println(interrupts, "interrupts,", result.Status, err)
	}
	return s.Close()
}

// closeAndReport closes the Spawner, and prints how each child ended.
func closeAndReport(s *forkspawn.Spawner, children []*forkspawn.Child) error {
	closed := make(chan error, 1)
	go func() { closed <- s.Close() }()
	fmt.Println("closing")
	if err := <-closed; err != nil {
		return err
	}
	for _, c := range children {
		result, err := c.Stop(context.Background())
		fmt.Println(result, err)
	}
	return nil
}
