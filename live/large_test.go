//go:build unix

package live_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
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
	grow(t, s, roles.Tree{Levels: 5, Breadth: 3, Patient: true})
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
	testkit.Eventually(t, "the whole tree", func() bool {
		tree = h.tree()
		return len(tree.Processes) == 364
	})
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
		timed("stacks")
	}
	below := func(name string) bool { // another stopped one, which hides it
		return slices.ContainsFunc(stopped, func(s string) bool {
			return strings.HasPrefix(name, s+".")
		})
	}
	testkit.Eventually(t, "the names of the stopped ones", func() bool {
		text := h.get("stacks")
		for i, name := range stopped {
			named := fmt.Sprintf("%q (pid %d): is stopped", name, pids[i])
			if !below(name) && !strings.Contains(text, named) {
				return false
			}
		}
		return true
	})
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
	h := serve(t, s, live.Config{})
	for range 3 {
		began := time.Now()
		page := h.get("")
		t.Logf("%d bytes in %v", len(page), time.Since(began))
		assert.Less(t, len(page), 1_000_000)
		time.Sleep(time.Second)
	}
}
