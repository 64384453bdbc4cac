//go:build unix

package forkspawn_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
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
	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
)

var races = flag.Int("races", 500, "how many `children` TestDeathAndReadyAtOnce starts over each transport")

// The ways to die about when one says ready.
const (
	byExit   = "exit"           // of itself
	bySignal = "SIGKILL"        // to itself
	byParent = "parent's doing" // SIGKILL, at any time
)

// raceSpread is how far, at most, death and ready are apart when the child itself dies, unless that turns out to be too little.
const raceSpread = 150 * time.Microsecond

// dieAbout calls ready and dies, in an order that the offset tells: that many nanoseconds after ready, or before
// it if it is below 0. Both are begun by threads that are awake.
func dieAbout(how, offset string, ready func()) {
	after, _ := strconv.Atoi(offset)
	start := time.Now().Add(200 * time.Microsecond)
	spin := func(d int) {
		for time.Until(start) > -time.Duration(max(d, 0)) {
		}
	}
	go func() {
		spin(after)
		switch how {
		case byExit:
			os.Exit(9)
		case bySignal:
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
		}
	}()
	spin(-after)
	ready()
	select {}
}

// executioner starts children whom it kills at a random time of about their boot.
type executioner struct {
	wg   sync.WaitGroup
	life atomic.Int64 // about how long they live, in nanoseconds
}

// adjust makes as many die before they are ready as after.
func (e *executioner) adjust(wasReady bool) {
	life := e.life.Load()
	if wasReady {
		e.life.Store(life - life/16)
	} else {
		e.life.Store(life + life/16)
	}
}

func (e *executioner) Start(_ context.Context, attr forkspawn.ProcessAttr) (forkspawn.Process, error) {
	p, err := forkspawn.StartProcess(attr)
	if err != nil {
		return nil, err
	}
	life := time.Duration((0.9 + 0.2*rand.Float64()) * float64(e.life.Load()))
	e.wg.Go(func() {
		time.Sleep(life)
		p.Signal(syscall.SIGKILL, false)
	})
	return p, nil
}

// A child that dies and says ready at the same instant is a BootError with its exit status or a Child whose next
// receive has it, and nothing else. All of it, 10,000 children over each transport:
//
//	go test -run TestDeathAndReadyAtOnce -v ./forkspawn -races 10000
func TestDeathAndReadyAtOnce(t *testing.T) {
	networks(t, func(t *testing.T, listen transport.Addr) {
		spawntest.NoLeaks(t)
		s := newSpawner(t, forkspawn.Config{Listen: listen})
		var executioner executioner
		executioner.life.Store((10 * time.Millisecond).Nanoseconds())
		condemned, err := forkspawn.New(forkspawn.Config{
			Listen: listen, Starter: &executioner, Stdout: forkspawn.Null(), Stderr: forkspawn.Capture(nil),
		})
		require.NoError(t, err)

		var mu sync.Mutex // guards outcomes
		outcomes := map[string]int{}
		var next atomic.Int64
		var wg sync.WaitGroup
		began := time.Now()
		missing := func() string { // of the outcomes that there must be, one that was not seen yet
			mu.Lock()
			defer mu.Unlock()
			for _, how := range []string{byExit, bySignal, byParent} {
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
				// Further apart, and for longer, on a machine that does not let two threads run at once.
				for n := next.Add(1); n <= int64(*races) || missing() != "" && time.Since(began) < bound; n = next.Add(1) {
					spread := raceSpread * time.Duration(1+100*(n/(int64(*races)+1)))
					how, status, s := byExit, forkspawn.Exited(9), s
					switch n % 3 {
					case 1:
						how, status = bySignal, forkspawn.Killed(syscall.SIGKILL, false)
					case 2:
						how, status, s = byParent, forkspawn.Killed(syscall.SIGKILL, false), condemned
					}
					outcome := raceOnce(t, s, how, status, spread)
					if how == byParent {
						executioner.adjust(outcome == isChild)
					}
					mu.Lock()
					outcomes[how+": "+outcome]++
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		executioner.wg.Wait()
		require.NoError(t, condemned.Close())
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

// raceOnce starts one child and returns what came of it.
func raceOnce(t *testing.T, s *forkspawn.Spawner, how string, status forkspawn.ExitStatus, spread time.Duration) string {
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	defer cancel()
	offset := rand.IntN(int(2*spread)) - int(spread)
	c, err := s.SpawnCommand(ctx, role("die-about-ready", how, strconv.Itoa(offset)), spawnspec.Spec{Name: "brief"})
	if err != nil {
		var boot *forkspawn.BootError
		if !assert.ErrorAs(t, err, &boot) || !assert.ErrorIs(t, err, forkspawn.ErrDied) || !assert.Equal(t, status, boot.Status, "%v", err) {
			return fmt.Sprint("another error: ", err)
		}
		assert.False(t, alive(boot.PID))
		return isError
	}
	defer c.Kill()
	var v any
	err = c.Recv(ctx, &v)
	var exit *forkspawn.ExitError
	if !assert.Truef(t, errors.As(err, &exit), "%v", err) || !assert.Equal(t, status, exit.Status, "%v", err) {
		return fmt.Sprint("a Child with another end: ", err)
	}
	assert.False(t, alive(c.PID()))
	return isChild
}
