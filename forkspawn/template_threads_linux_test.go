//go:build amd64 || arm64

package forkspawn_test

import (
	"context"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/spawnspec"
)

func init() {
	forkspawn.RegisterWarmUp("locks threads", func() error {
		for range 3 {
			locked := make(chan struct{})
			go func() {
				runtime.LockOSThread()
				close(locked)
				for {
					time.Sleep(time.Millisecond)
				}
			}()
			<-locked
		}
		return nil
	})
	moreEntries["ends threads"] = func(ctx context.Context, p *forkspawn.Parent) error {
		// The end of a locked goroutine ends its thread.
		var all sync.WaitGroup
		all.Add(8)
		var ended sync.WaitGroup
		for range 8 {
			ended.Go(func() {
				runtime.LockOSThread()
				all.Done()
				all.Wait()
			})
		}
		ended.Wait()
		time.Sleep(20 * time.Millisecond)
		exe, err := os.Readlink("/proc/self/exe") // an error without the first thread
		if err != nil {
			return err
		}
		return p.Send(ctx, exe)
	}
}

func TestForked_FirstThreadNeverEnds(t *testing.T) {
	needForks(t)
	for _, warmUp := range []string{"", "locks threads"} {
		s := forking(t, func(cfg *forkspawn.Config) { cfg.WarmUp = warmUp })
		for range 5 {
			c := spawn(t, s, spawnspec.Spec{Entry: "ends threads"})
			var exe string
			require.NoError(t, c.Recv(testkit.Context(t), &exe), "after the warm-up %q", warmUp)
			self, err := os.Executable()
			require.NoError(t, err)
			assert.Equal(t, self, exe)
		}
	}
}
