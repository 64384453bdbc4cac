//go:build unix

package roles

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/spawnwire/spawnwire/forkspawn"
)

// oneAtATime waits for its spec until SIGTERM. Its argument is a file: while
// another such process has a lock on it, the process only waits for SIGTERM.
func oneAtATime(ctx context.Context) error {
	const flags = syscall.O_CREAT | syscall.O_RDWR | syscall.O_CLOEXEC
	fd, err := syscall.Open(os.Args[1], flags, 0o600) // open until the process ends
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM)
	defer stop()
	if err := syscall.Flock(fd, syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		<-ctx.Done()
		return err
	}
	_, err = forkspawn.Join(ctx, forkspawn.JoinConfig{})
	return err
}
