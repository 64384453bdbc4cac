//go:build unix

package forkspawn_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/internal/testkit/roles"
	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
)

var races = flag.Int("races", 0,
	"how many `children` TestBoot_DeathAndReadyAtOnce starts over each transport; 0 is a number that takes seconds")

// raceSpread is the longest time between death and ready of a child that ends
// by itself. It grows when both outcomes do not occur.
const raceSpread = 150 * time.Microsecond

// killer starts children and kills each at a random time near the end of
// its boot.
type killer struct {
	wg   sync.WaitGroup
	life atomic.Int64 // their mean lifetime in nanoseconds
}

// adjust changes the lifetime so that half of the children become ready.
func (e *killer) adjust(wasReady bool) {
	life := e.life.Load()
	if wasReady {
		e.life.Store(life - life/16)
	} else {
		e.life.Store(life + life/16)
	}
}

func (e *killer) Start(
	_ context.Context, attr forkspawn.ProcessAttr,
) (forkspawn.Process, error) {
	p, err := forkspawn.StartProcess(attr)
	if err != nil {
		return nil, err
	}
	life := time.Duration((0.9 + 0.2*rand.Float64()) * float64(e.life.Load()))
	e.wg.Go(func() {
		time.Sleep(life)
		p.Signal(syscall.SIGKILL)
	})
	return p, nil
}

// A child dies and sends ready at the same instant. Spawn returns a BootError
// with the exit status, or a Child, and then the next Recv returns the status.
// The full length, 10,000 children over each transport:
//
//	go test -run TestBoot_DeathAndReadyAtOnce -v ./forkspawn -races 10000
func TestBoot_DeathAndReadyAtOnce(t *testing.T) {
	n := int64(*races)
	switch {
	case n > 0:
	case testkit.IsLong():
		n = 500
	default:
		n = 40
	}
	networks(t, func(t *testing.T, listen transport.Addr) {
		spawntest.NoLeaks(t)
		s := newSpawner(t, forkspawn.Config{Listen: listen})
		var killer killer
		killer.life.Store((10 * time.Millisecond).Nanoseconds())
		doomed, err := forkspawn.New(forkspawn.Config{
			Listen: listen, Start: killer.Start, Stdout: forkspawn.Null(),
			Stderr: forkspawn.Capture(nil),
		})
		require.NoError(t, err)

		var mu sync.Mutex // guards outcomes
		outcomes := map[string]int{}
		var next atomic.Int64
		var wg sync.WaitGroup
		began := time.Now()
		missing := func() string { // an outcome that did not occur yet
			mu.Lock()
			defer mu.Unlock()
			for _, how := range []string{roles.ByExit, roles.BySignal, roles.ByParent} {
				for _, outcome := range []string{isError, isChild} {
					if outcomes[how+": "+outcome] == 0 {
						return how + ": " + outcome
					}
				}
			}
			return ""
		}
		for range 4 {
			wg.Go(func() {
				// On a machine that does not run two threads at once, death and ready
				// are further apart, and there are more children.
				for i := next.Add(1); i <= n || missing() != "" &&
					time.Since(began) < bound; i = next.Add(1) {
					spread := raceSpread * time.Duration(1+100*(i/(n+1)))
					how, status, s := roles.ByExit, forkspawn.ExitedStatus(9), s
					switch i % 3 {
					case 1:
						how, status = roles.BySignal, forkspawn.KilledStatus(syscall.SIGKILL, false)
					case 2:
						how, status, s = roles.ByParent,
							forkspawn.KilledStatus(syscall.SIGKILL, false), doomed
					}
					outcome := raceOnce(t, s, how, status, spread)
					if how == roles.ByParent {
						killer.adjust(outcome == isChild)
					}
					mu.Lock()
					outcomes[how+": "+outcome]++
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		killer.wg.Wait()
		require.NoError(t, doomed.Close())
		for _, k := range slices.Sorted(maps.Keys(outcomes)) {
			t.Logf("%6d  %s", outcomes[k], k)
		}
		assert.Empty(t, missing(), "never seen")
	})
}

// The two outcomes.
const (
	isError = "a BootError with the status"
	isChild = "a Child whose next receive has the status"
)

// raceOnce starts one child and returns the outcome.
func raceOnce(t *testing.T, s *forkspawn.Spawner, how string, status forkspawn.ExitStatus,
	spread time.Duration) string {
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	defer cancel()
	offset := rand.IntN(int(2*spread)) - int(spread)
	c, err := s.Spawn(ctx, spawnspec.Spec{Name: "brief"},
		forkspawn.WithCommand(roles.Command("dies-near-ready", how, strconv.Itoa(offset))))
	if err != nil {
		var boot *forkspawn.BootError
		if !assert.ErrorAs(t, err, &boot) || !assert.ErrorIs(t, err, forkspawn.ErrDied) ||
			!assert.Equal(t, status, boot.Status, "%v", err) {
			return fmt.Sprint("another error: ", err)
		}
		assert.False(t, alive(boot.PID))
		return isError
	}
	defer c.Kill()
	var v any
	err = c.Recv(ctx, &v)
	var exit *forkspawn.ExitError
	if !assert.Truef(t, errors.As(err, &exit), "%v", err) ||
		!assert.Equal(t, status, exit.Status, "%v", err) {
		return fmt.Sprint("a Child with another end: ", err)
	}
	assert.False(t, alive(c.PID()))
	return isChild
}
