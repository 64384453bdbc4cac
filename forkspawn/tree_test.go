//go:build unix

package forkspawn_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// branch says what a node of a tree of processes has below it. When the whole tree is up its leaves
// fail, all at once.
type branch struct {
	Levels   int    // below this node; 0 is a leaf
	Breadth  int    // children of each node
	Flood    int    // bytes that a leaf writes to stderr before it fails
	Heed     bool   // everybody does as asked; else all ignore SIGTERM, and every second leaf hangs instead of failing
	NoSignal bool   // no parent-death signal: a node whose parent is killed learns of it by its connection alone
	Gate     string // a FIFO: the leaves fail when somebody has it open for writing; "" is never
}

func init() { forkspawn.Register("branch", runBranch) }

// runBranch is a node below the root.
func runBranch(ctx context.Context, p *forkspawn.Parent) error {
	var b branch
	if err := p.Spec.DecodeArgs(&b); err != nil {
		return err
	}
	if !b.Heed {
		signal.Ignore(syscall.SIGTERM)
	}
	if b.Levels == 0 {
		return leaf(ctx, p, b)
	}
	s, err := forkspawn.New(forkspawn.Config{NoParentDeathSignal: b.NoSignal})
	if err != nil {
		return err
	}
	defer s.Close()
	return b.grow(ctx, s, p.Spec.Name, func(pids []int) error {
		return p.Send(ctx, append(pids, os.Getpid()))
	})
}

func leaf(ctx context.Context, p *forkspawn.Parent, b branch) error {
	if err := p.Send(ctx, []int{os.Getpid()}); err != nil {
		return err
	}
	if b.Gate == "" {
		<-ctx.Done()
		return ctx.Err()
	}
	gate, err := os.Open(b.Gate) // blocks, also while its parent asks it to stop
	if err != nil {
		return err
	}
	gate.Close()
	io.WriteString(os.Stderr, strings.Repeat("x", b.Flood)+"\n")
	if !b.Heed && strings.HasSuffix(p.Spec.Name, "1") {
		select {}
	}
	return fmt.Errorf("leaf %s fails", p.Spec.Name)
}

// grow starts the children below a node, calls up with all pids when all are up, and returns what the group
// says of their end.
func (b branch) grow(ctx context.Context, s *forkspawn.Spawner, name string, up func(pids []int) error) error {
	g, err := s.NewGroup(ctx, forkspawn.GroupConfig{})
	if err != nil {
		return err
	}
	grown := make(chan []int, b.Breadth)
	below := b
	below.Levels--
	for i := range b.Breadth {
		spec := spawnspec.Spec{Name: name + "." + itoa(i), Entry: "branch", Args: below}
		err := g.Go(spec, func(ctx context.Context, c *forkspawn.Child) error {
			var pids []int
			if err := c.Recv(ctx, &pids); err != nil {
				return err
			}
			grown <- pids
			<-ctx.Done() // until the child has ended, or the group has
			return nil
		})
		if err != nil {
			break // the group has failed; Wait tells
		}
	}
	var all []int
	for range b.Breadth {
		select {
		case pids := <-grown:
			all = append(all, pids...)
		case <-g.Context().Done():
			return g.Wait()
		}
	}
	if err := up(all); err != nil {
		g.Cancel(err)
	}
	return g.Wait()
}

// fell grows a tree under a root with the graces, lets it fall, and returns all pids, how long the fall
// took, and the root's error.
func (b branch) fell(t *testing.T, stopGrace, termGrace time.Duration) (pids []int, took time.Duration, fallen error) {
	t.Helper()
	b.Gate = filepath.Join(t.TempDir(), "gate")
	require.NoError(t, syscall.Mkfifo(b.Gate, 0o600))
	gate, err := os.OpenFile(b.Gate, os.O_RDONLY|syscall.O_NONBLOCK, 0) // so that the open for writing does not block
	require.NoError(t, err)
	defer gate.Close()
	s := newSpawner(t, forkspawn.Config{StopGrace: stopGrace, TermGrace: termGrace})
	var began time.Time
	done := make(chan error, 1)
	go func() {
		done <- b.grow(context.Background(), s, "r", func(all []int) error {
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

// leaves names the leaves of the tree.
func (b branch) leaves(name string) []string {
	if b.Levels == 0 {
		return []string{name}
	}
	var names []string
	b.Levels--
	for i := range b.Breadth {
		names = append(names, b.leaves(name+"."+itoa(i))...)
	}
	return names
}

func TestTreeWhoseLeavesAllFailTellsEveryErrorAtTheRoot(t *testing.T) {
	b := branch{Levels: 3, Breadth: 2, Flood: 10 << 20, Heed: true}
	pids, took, err := b.fell(t, bound, bound) // nobody is to be cut off in the middle of its words
	assert.Len(t, pids, 2+4+8)
	require.Error(t, err)
	for _, leaf := range b.leaves("r") {
		assert.ErrorContains(t, err, "leaf "+leaf+" fails")
	}
	t.Logf("%d processes below the root, each leaf with 10 MiB on stderr: down in %v\n%v", len(pids), took, err)
}

func TestTreeThatIgnoresSIGTERMEndsWithinTheRootsGraces(t *testing.T) {
	const stop, term = 16 * time.Second, 16 * time.Second // of which a leaf has a quarter to say its words
	b := branch{Levels: 3, Breadth: 2, Flood: 1 << 20}
	pids, took, err := b.fell(t, stop, term)
	assert.Len(t, pids, 2+4+8)
	require.Error(t, err)
	for _, leaf := range b.leaves("r") {
		if strings.HasSuffix(leaf, "0") {
			assert.ErrorContains(t, err, "leaf "+leaf+" fails")
		} else {
			assert.NotContains(t, err.Error(), "leaf "+leaf+" fails", "it was killed, which is no failure")
		}
	}
	assert.Less(t, took, stop+term, "the graces below are shares of the root's, not sums")
	t.Logf("%d processes below the root, half of the leaves hang: down in %v, of %v", len(pids), took, stop+term)
}

func TestDeepAndBroadTreeLeavesNobody(t *testing.T) {
	if testing.Short() || raceDetector {
		t.Skip("363 processes")
	}
	b := branch{Levels: 5, Breadth: 3, Flood: 64 << 10, Heed: true}
	began := time.Now()
	pids, took, err := b.fell(t, 0, 0)
	assert.Len(t, pids, 3+9+27+81+243)
	require.Error(t, err)
	t.Logf("%d processes: up in %v, down in %v", len(pids), time.Since(began)-took, took)
}

func TestTreeCancelledFromItsRootEnds(t *testing.T) {
	s := newSpawner(t, forkspawn.Config{})
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	why := errors.New("the root has had enough")
	var pids []int
	var began time.Time
	b := branch{Levels: 3, Breadth: 2, Heed: true}
	err := b.grow(ctx, s, "r", func(all []int) error {
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
