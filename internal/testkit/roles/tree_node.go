//go:build unix

package roles

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// Tree is a tree of processes below a node. When the whole tree is up its
// leaves fail, all at once.
type Tree struct {
	Levels   int  // below this node; a leaf has none
	Breadth  int  // children of each node
	Flood    int  // bytes that a leaf writes to stderr before it fails
	NoSignal bool // without the parent-death signal

	// Obey makes all nodes stop as asked. Otherwise all ignore SIGTERM, and
	// every second leaf hangs instead of failing.
	Obey bool

	// Patient makes all nodes wait for their children as long as a test does. A busy
	// machine needs that for a large tree.
	Patient bool

	// Gate is a FIFO. The leaves fail when a process opens it for writing. If
	// it is empty they never fail.
	Gate string
}

// treeNode is a node below the root.
func treeNode(ctx context.Context, p *forkspawn.Parent) error {
	var t Tree
	if err := p.Spec().DecodeArgs(&t); err != nil {
		return err
	}
	if !t.Obey {
		signal.Ignore(syscall.SIGTERM)
	}
	if t.Levels == 0 {
		return t.leaf(ctx, p)
	}
	cfg := forkspawn.Config{NoParentDeathSignal: t.NoSignal}
	if t.Patient {
		cfg.StopGrace = testkit.Patience
	}
	s, err := forkspawn.New(cfg)
	if err != nil {
		return err
	}
	defer s.Close()
	return t.Grow(ctx, s, p.Spec().Name, func(pids []int) error {
		return p.Send(ctx, append(pids, os.Getpid()))
	})
}

func (t Tree) leaf(ctx context.Context, p *forkspawn.Parent) error {
	if err := p.Send(ctx, []int{os.Getpid()}); err != nil {
		return err
	}
	if t.Gate == "" {
		<-ctx.Done()
		return ctx.Err()
	}
	gate, err := os.Open(t.Gate) // blocks, also while the parent asks it to stop
	if err != nil {
		return err
	}
	gate.Close()
	io.WriteString(os.Stderr, strings.Repeat("x", t.Flood)+"\n")
	if !t.Obey && strings.HasSuffix(p.Spec().Name, "1") {
		forever()
	}
	return fmt.Errorf("leaf %s fails", p.Spec().Name)
}

// Grow starts the children below a node. When all are up it calls up with the
// pids of all descendants. It returns the group's error.
func (t Tree) Grow(
	ctx context.Context, s *forkspawn.Spawner, name string, up func(pids []int) error,
) error {
	g, err := s.NewGroup(ctx, forkspawn.GroupConfig{})
	if err != nil {
		return err
	}
	grown := make(chan []int, t.Breadth)
	below := t
	below.Levels--
	for i := range t.Breadth {
		spec := spawnspec.Spec{Name: name + "." + strconv.Itoa(i), Entry: "tree-node", Args: below}
		err := g.Go(spec, func(ctx context.Context, c *forkspawn.Child) error {
			var pids []int
			if err := c.Recv(ctx, &pids); err != nil {
				return err
			}
			grown <- pids
			<-ctx.Done() // until the child or the group has ended
			return nil
		})
		if err != nil {
			break // the group has failed, and Wait returns its error
		}
	}
	var all []int
	for range t.Breadth {
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

// Leaves returns the names of the leaves below a node with the name.
func (t Tree) Leaves(name string) []string {
	if t.Levels == 0 {
		return []string{name}
	}
	var names []string
	t.Levels--
	for i := range t.Breadth {
		names = append(names, t.Leaves(name+"."+strconv.Itoa(i))...)
	}
	return names
}
