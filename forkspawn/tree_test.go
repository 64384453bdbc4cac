//go:build unix

package forkspawn_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/internal/testkit/roles"
)

// fell grows a tree below this process and makes its leaves fail. It returns all
// pids, the time until all have ended, and the root's error.
func fell(
	t *testing.T, b roles.Tree, stopGrace, termGrace time.Duration,
) (pids []int, took time.Duration, fallen error) {
	t.Helper()
	b.Gate = filepath.Join(t.TempDir(), "gate")
	require.NoError(t, syscall.Mkfifo(b.Gate, 0o600))
	// without a reader, the open for writing would block
	gate, err := os.OpenFile(b.Gate, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	require.NoError(t, err)
	defer gate.Close()
	s := newSpawner(t, forkspawn.Config{StopGrace: stopGrace, TermGrace: termGrace})
	var began time.Time
	done := make(chan error, 1)
	go func() {
		done <- b.Grow(context.Background(), s, "r", func(all []int) error {
			pids = all
			began = time.Now()
			writer, err := os.OpenFile(b.Gate, os.O_WRONLY, 0)
			if err == nil {
				t.Cleanup(func() { writer.Close() })
			}
			return err
		})
	}()
	select {
	case fallen = <-done:
	case <-time.After(bound):
		require.Fail(t, "the tree hangs")
	}
	took = time.Since(began)
	require.NotEmpty(t, pids, "the tree came up: %v", fallen)
	for _, pid := range pids {
		assert.False(t, running(pid), "pid %d", pid)
	}
	return pids, took, fallen
}

func TestTree_EveryLeafsErrorReachesTheRoot(t *testing.T) {
	b := roles.Tree{Levels: 3, Breadth: 2, Flood: 10 << 20, Obey: true}
	pids, took, err := fell(t, b, bound, bound) // no process may be killed while it writes
	assert.Len(t, pids, 2+4+8)
	require.Error(t, err)
	for _, leaf := range b.Leaves("r") {
		assert.ErrorContains(t, err, "leaf "+leaf+" fails")
	}
	t.Logf("%d processes below the root, each leaf with 10 MiB on stderr: down in %v\n%v",
		len(pids), took, err)
}

func TestTree_IgnoringSIGTERMEndsWithinTheRootsGraces(t *testing.T) {
	b := roles.Tree{Levels: 3, Breadth: 2, Flood: 1 << 20}
	// A quarter of a grace is for the leaves' errors. A slow machine needs longer
	// graces, and the result is the same with any.
	for grace := 4 * time.Second; ; grace *= 2 {
		pids, took, err := fell(t, b, grace, grace)
		assert.Len(t, pids, 2+4+8)
		require.Error(t, err)
		t.Logf("%d processes below the root, half of the leaves hang: down in %v, of %v",
			len(pids), took, 2*grace)
		missing, late := 0, took >= 2*grace // the graces below are shares of the root's, not sums
		for _, leaf := range b.Leaves("r") {
			text := "leaf " + leaf + " fails"
			if !strings.HasSuffix(leaf, "0") {
				assert.NotContains(t, err.Error(), text, "it was killed, which is no failure")
			} else if !strings.Contains(err.Error(), text) {
				missing++
			}
		}
		if missing == 0 && !late {
			return
		}
		require.Less(t, grace, bound/2,
			"%d errors are missing, too late: %t, in %v", missing, late, err)
	}
}

func TestTree_DeepAndBroadLeavesNobody(t *testing.T) {
	testkit.Long(t)
	if raceDetector {
		t.Skip("363 processes need too much memory with the race detector")
	}
	b := roles.Tree{Levels: 5, Breadth: 3, Flood: 64 << 10, Obey: true}
	began := time.Now()
	pids, took, err := fell(t, b, 0, 0)
	assert.Len(t, pids, 3+9+27+81+243)
	require.Error(t, err)
	t.Logf("%d processes: up in %v, down in %v", len(pids), time.Since(began)-took, took)
}

func TestTree_CancelFromTheRootEndsIt(t *testing.T) {
	s := newSpawner(t, forkspawn.Config{})
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	why := errors.New("the root has had enough")
	var pids []int
	var began time.Time
	b := roles.Tree{Levels: 3, Breadth: 2, Obey: true}
	err := b.Grow(ctx, s, "r", func(all []int) error {
		pids, began = all, time.Now()
		cancel(why)
		return nil
	})
	took := time.Since(began)
	assert.Equal(t, why, err, "nobody failed: %v", err)
	assert.Len(t, pids, 2+4+8)
	for _, pid := range pids {
		assert.False(t, running(pid))
	}
	t.Logf("%d processes ended in %v", len(pids), took)
}

// A killed process in a tree leaves no socket, because its socket is in the
// root's directory, and its parent removes it there.
func TestTree_KilledNodeLeavesNoSocket(t *testing.T) {
	s := newSpawner(t, forkspawn.Config{})
	dir := filepath.Dir(s.Addr().Target)
	c, socket, grandchild := spawnWithDeafChild(t, s)
	assert.Equal(t, dir, filepath.Dir(socket), "in the root's directory")
	assert.FileExists(t, socket)
	_, err := c.Kill()
	require.NoError(t, err)
	assert.NoFileExists(t, socket)
	testkit.Eventually(t, "the child's child has ended", func() bool {
		return !running(grandchild)
	})
	require.NoError(t, s.Close())
	assert.NoDirExists(t, dir)
}
