//go:build unix

package roles

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// runsService is a service with a group of three children. It ends on SIGTERM,
// and prints the pids of its children, each restart, and how the group ended.
func runsService(ctx context.Context) error {
	os.Unsetenv(testkit.RoleEnv)
	s, err := forkspawn.New(forkspawn.Config{Trace: &forkspawn.Trace{
		Restarting: func(forkspawn.ChildEvent, int, time.Duration, error) {
			fmt.Println("restart")
		},
	}})
	if err != nil {
		return err
	}
	defer s.Close()
	ctx, stop := s.NotifyContext(ctx, syscall.SIGTERM)
	defer stop()
	group, err := s.NewGroup(ctx, forkspawn.GroupConfig{
		Restart: forkspawn.RestartOnFailure,
	})
	if err != nil {
		return err
	}
	ready := make(chan int)
	for range 3 {
		err := group.Go(spawnspec.Spec{Entry: "waits"},
			func(ctx context.Context, c *forkspawn.Child) error {
				ready <- c.PID()
				<-ctx.Done()
				return ctx.Err()
			})
		if err != nil {
			return err
		}
	}
	fmt.Println("pids", <-ready, <-ready, <-ready)
	err = group.Wait()
	var signal *forkspawn.SignalError
	fmt.Println("clean:", errors.As(err, &signal), err)
	return nil
}
