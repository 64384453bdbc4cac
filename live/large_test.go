//go:build unix

package live_test

import (
	"math/rand/v2"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/internal/testkit/roles"
	"github.com/spawnwire/spawnwire/live"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// The tree has 363 processes below the root. The log has the times of each page.
func TestLarge_TreeWithStoppedProcesses(t *testing.T) {
	testkit.Long(t)
	s := newSpawner(t, forkspawn.Config{StopGrace: testkit.Patience})
	grow(t, s, roles.Tree{Levels: 5, Breadth: 3})
	h := serve(t, s, live.Config{})
	timed := func(at string) string {
		time.Sleep(time.Second) // for a new look
		began := time.Now()
		body := h.get(at)
		t.Logf("%q: %v, %d bytes", at, time.Since(began), len(body))
		return body
	}
	timed("")
	tree := h.tree()
	require.Len(t, tree.Processes, 364)
	for range 3 {
		timed("")
		timed("stacks")
	}
	var stopped []string
	var pids []int
	for _, i := range rand.Perm(363)[:18] { // 5 %
		p := tree.Processes[1+i]
		require.NoError(t, syscall.Kill(p.PID, syscall.SIGSTOP))
		stopped, pids = append(stopped, p.Name), append(pids, p.PID)
	}
	t.Cleanup(func() {
		for _, pid := range pids {
			syscall.Kill(pid, syscall.SIGCONT)
		}
	})
	t.Log("stopped:", stopped)
	for range 3 {
		timed("")
		text := timed("stacks")
		all := named(h.tree())
		for i, name := range stopped {
			if _, ok := all[name]; ok { // otherwise it is below another stopped one
				assert.Contains(t, text, `"`+name+`" (pid `+strconv.Itoa(pids[i])+`)`)
			}
		}
	}
}

func TestLarge_PageOfAThousandChildren(t *testing.T) {
	testkit.Long(t)
	s := newSpawner(t, forkspawn.Config{})
	var starts sync.WaitGroup
	turns := make(chan struct{}, 8)
	for i := range 1000 {
		starts.Go(func() {
			turns <- struct{}{}
			defer func() { <-turns }()
			_, err := s.Spawn(testkit.Context(t), spawnspec.Spec{
				Name: "child-" + strconv.Itoa(i), Entry: "waits"})
			assert.NoError(t, err)
		})
	}
	starts.Wait()
	h := serve(t, s, live.Config{Authorize: nil})
	for range 3 {
		began := time.Now()
		page := h.get("")
		t.Logf("%d bytes in %v", len(page), time.Since(began))
		assert.Less(t, len(page), 1_000_000)
		time.Sleep(time.Second)
	}
}
