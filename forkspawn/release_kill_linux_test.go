package forkspawn_test

import (
	"context"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/spawnspec"
)

func init() { moreEntries["hosts-count"] = hostsCount }

// killLease is long enough for a takeover on a busy machine, mostly.
const killLease = 2 * time.Second

// hostsCount is the host of a keeps-count, and is killed in the middle of Release or
// Reattach. Its argument is a Handle, or "" to start and release the child.
func hostsCount(ctx context.Context, parent *forkspawn.Parent) error {
	var text, begin string
	if err := parent.Spec().DecodeArgs(&text); err != nil {
		return err
	}
	method := forkspawn.Method(os.Getenv(testkit.MethodEnv))
	s, err := forkspawn.New(releasable(forkspawn.Config{Method: method}))
	if err != nil {
		return err
	}
	defer s.Close()
	var c *forkspawn.Child
	pid := 0
	if text == "" {
		if c, err = s.Spawn(ctx, spawnspec.Spec{Entry: "keeps-count"}); err != nil {
			return err
		}
		pid = c.PID()
	}
	if err := parent.Send(ctx, pid); err != nil {
		return err
	}
	if err := parent.Recv(ctx, &begin); err != nil {
		return err
	}
	var h forkspawn.Handle
	if c != nil {
		if h, err = c.Release(ctx, killLease); err != nil {
			return err
		}
		made, _ := h.MarshalText()
		return parent.Send(ctx, string(made))
	}
	if err = h.UnmarshalText([]byte(text)); err == nil {
		c, err = s.Reattach(ctx, h)
	}
	if err == nil {
		err = c.Send(ctx, 0)
	}
	if err == nil {
		err = c.Recv(ctx, new(int)) // the child has left its wait
	}
	if err != nil {
		return err
	}
	if err := parent.Send(ctx, "taken over"); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// killedAt starts a host, lets it begin, and kills it after a time. Without a time it
// waits for the host's end of its work. It returns what the host has said, how long that
// took, and the pid of the host's child.
func killedAt(
	t testing.TB, hosts *forkspawn.Spawner, text string, after time.Duration,
) (said string, took time.Duration, pid int) {
	t.Helper()
	ctx := testkit.Context(t)
	host, err := hosts.Spawn(ctx, spawnspec.Spec{Entry: "hosts-count", Args: text})
	require.NoError(t, err)
	defer host.Kill()
	require.NoError(t, host.Recv(ctx, &pid))
	began := time.Now()
	require.NoError(t, host.Send(ctx, "begin"))
	if after > 0 {
		time.Sleep(after)
		host.Signal(9)
	}
	err = host.Recv(ctx, &said)
	took = time.Since(began)
	if after == 0 {
		require.NoError(t, err)
	}
	return said, took, pid
}

// The host is killed at a moment of Release or Reattach, from the first step to the last.
// Afterwards the next process takes the child over, or the child is gone when its lease
// has ended.
func TestRelease_HostIsKilledAtAnyStep(t *testing.T) {
	spawntest.NoLeaks(t)
	ownTempDir(t)
	kills := 24
	if testkit.IsLong() {
		kills = 200
	}
	hosts := newSpawner(t, forkspawn.Config{Method: forkspawn.MethodExec})
	next := newSpawner(t, releasable(forkspawn.Config{}))
	text, releasing, _ := killedAt(t, hosts, "", 0)
	_, reattaching, _ := killedAt(t, hosts, text, 0)
	t.Logf("Release takes %v, and Reattach %v", releasing, reattaching)

	var mu sync.Mutex // guards counts
	counts := map[string]int{}
	slots := make(chan struct{}, 4)
	var all sync.WaitGroup
	for i := range kills {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			step, span := "Release", releasing
			if i%2 == 1 {
				step, span = "Reattach", reattaching
			}
			after := time.Duration(i+1) * span * 3 / time.Duration(kills)
			result := playKill(t, hosts, next, step, after)
			mu.Lock()
			defer mu.Unlock()
			counts[step+": "+result]++
		})
	}
	all.Wait()
	t.Log(counts)
}

// playKill is one kill. It returns what became of the child.
func playKill(
	t *testing.T, hosts, next *forkspawn.Spawner, step string, after time.Duration,
) string {
	var text string
	var pid int
	if step == "Release" {
		text, _, pid = killedAt(t, hosts, "", after)
	} else {
		text, _, pid = killedAt(t, hosts, "", 0)
		killedAt(t, hosts, text, after)
	}
	if text != "" {
		var h forkspawn.Handle
		if !assert.NoError(t, h.UnmarshalText([]byte(text))) {
			return "no handle"
		}
		c, err := next.Reattach(testkit.Context(t), h)
		if err == nil {
			defer c.Stop(context.Background())
			var sum int
			assert.Equal(t, pid, c.PID())
			assert.NoError(t, c.Send(testkit.Context(t), 7))
			assert.NoError(t, c.Recv(testkit.Context(t), &sum))
			assert.Equal(t, 7, sum)
			return "taken over"
		}
	}
	deadline := time.Now().Add(killLease + bound)
	for running(pid) {
		inTime := time.Now().Before(deadline)
		if !assert.True(t, inTime, "%s killed after %v: an orphan", step, after) {
			return "an orphan"
		}
		time.Sleep(5 * time.Millisecond)
	}
	return "gone"
}
