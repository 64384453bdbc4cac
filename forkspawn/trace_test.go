//go:build unix

package forkspawn_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/internal/testkit/roles"
	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
)

// diary records the events of a Trace, each in a few words.
type diary struct {
	mu     sync.Mutex
	lines  []string
	events []forkspawn.ChildEvent
}

func (d *diary) write(e forkspawn.ChildEvent, format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lines = append(d.lines, fmt.Sprintf(format, args...))
	d.events = append(d.events, e)
}

// read returns the events except Exited, because that can come at any moment. It
// reports whether Exited came once.
func (d *diary) read() (lines []string, exited bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := 0
	for _, line := range d.lines {
		if line == "exited" {
			n++
		} else {
			lines = append(lines, line)
		}
	}
	return lines, n == 1
}

func (d *diary) trace() *forkspawn.Trace {
	return &forkspawn.Trace{
		Started: func(e forkspawn.ChildEvent) { d.write(e, "started") },
		Phase:   func(e forkspawn.ChildEvent, p handshake.Phase) { d.write(e, "phase %s", p) },
		Ready:   func(e forkspawn.ChildEvent, _ forkspawn.BootTimes) { d.write(e, "ready") },
		BootFailed: func(e forkspawn.ChildEvent, err *forkspawn.BootError) {
			d.write(e, "boot failed in %s", err.Phase)
		},
		Asked: func(e forkspawn.ChildEvent, grace time.Duration) { d.write(e, "asked") },
		Signalled: func(e forkspawn.ChildEvent, sig syscall.Signal, group bool, _ error) {
			d.write(e, "%v, group %t", sig, group)
		},
		Exited: func(e forkspawn.ChildEvent, _ forkspawn.ExitStatus) { d.write(e, "exited") },
		Stopped: func(e forkspawn.ChildEvent, r forkspawn.StopResult, err error) {
			d.write(e, "stopped: %s, error %v", r.By, err)
		},
	}
}

func TestTrace_OfALife(t *testing.T) {
	networks(t, func(t *testing.T, listen transport.Addr) {
		var d diary
		s := newSpawner(t,
			forkspawn.Config{Listen: listen, Trace: d.trace(),
				StopGrace: 50 * time.Millisecond, TermGrace: bound})
		c := spawn(t, s, spawnspec.Spec{Name: "one", Entry: "ignores-requests"})
		require.NoError(t, c.Signal(0))
		_, err := c.Stop(testkit.Context(t))
		require.NoError(t, err)
		lines, exited := d.read()
		assert.True(t, exited, "before Stop returns")
		want := []string{"started", "phase connect", "phase hello", "phase auth",
			"phase spec", "phase ready", "ready",
			"signal 0, group false", "asked", "terminated, group true", "continued, group true",
			"stopped: ended on SIGTERM, error <nil>"}
		if listen.IsZero() && slices.Contains(lines, "phase hello") {
			assert.Equal(t, want, lines)
			// the phase hello is over before the parent knows who has connected; always over TCP
		} else {
			assert.Equal(t, slices.Delete(want, 2, 3), lines)
		}
		at := d.events[0].At
		for i, e := range d.events {
			assert.Equal(t, "one", e.Name)
			assert.Equal(t, c.ID(), e.ID)
			assert.Equal(t, c.PID(), e.PID)
			assert.False(t, e.At.IsZero())
			if d.lines[i] != "exited" {
				// several goroutines record times
				assert.False(t, e.At.Before(at.Add(-bound)), "%v", d.lines[i])
				at = e.At
			}
		}
	})
}

func TestTrace_OfFailures(t *testing.T) {
	var d diary
	s := newSpawner(t, forkspawn.Config{Trace: d.trace()})
	spawnError(t, testkit.Context(t), s, forkspawn.Command{Path: "/no/such/program"},
		spawnspec.Spec{Name: "none"})
	lines, _ := d.read()
	assert.Equal(t, []string{"boot failed in start"}, lines)

	d = diary{}
	s = newSpawner(t, forkspawn.Config{Trace: d.trace()})
	spawnError(t, testkit.Context(t), s, roles.Command("exits-3"), spawnspec.Spec{Name: "exit3"})
	lines, exited := d.read()
	assert.Equal(t, []string{"started", "phase connect", "boot failed in connect"}, lines)
	assert.True(t, exited)
}

func TestTrace_ChildFasterThanItsStarter(t *testing.T) {
	// The child connects, is refused and ends before Start has returned its pid.
	var d diary
	s, err := forkspawn.New(forkspawn.Config{Start: patientStarter{}.Start,
		Stderr: forkspawn.Null(), Trace: d.trace()})
	require.NoError(t, err)
	failed := make(chan error, 1)
	go func() {
		_, err := s.Spawn(context.Background(), spawnspec.Spec{Name: "garbled"},
			forkspawn.WithCommand(roles.Command("sends-garbage")))
		failed <- err
	}()
	select {
	case err := <-failed:
		require.ErrorIs(t, err, transport.ErrProtocol)
	case <-time.After(bound):
		require.Fail(t, "Spawn hangs")
	}
	require.NoError(t, s.Close())
	lines, exited := d.read()
	assert.Equal(t, []string{"started", "phase connect", "phase hello", "boot failed in hello"},
		lines)
	assert.True(t, exited)
}

// patientStarter starts a process and returns when the process has ended.
type patientStarter struct{}

func (patientStarter) Start(
	_ context.Context, attr forkspawn.ProcessAttr,
) (forkspawn.Process, error) {
	p, err := forkspawn.StartProcess(attr)
	if err != nil {
		return nil, err
	}
	p.Wait()
	return p, nil
}

func TestTrace_ReadyComesBeforeAStop(t *testing.T) {
	var s *forkspawn.Spawner
	ready := 0
	s = newSpawner(t,
		forkspawn.Config{
			Trace: &forkspawn.Trace{Ready: func(forkspawn.ChildEvent, forkspawn.BootTimes) {
				ready++
				assert.Empty(t, s.Children(), "Close stops those that are there")
			}}})
	spawn(t, s, spawnspec.Spec{Entry: "echo"})
	assert.Equal(t, 1, ready)
	assert.Len(t, s.Children(), 1)
}

// The events of a start have the context of its caller, also with a spare, for a program
// without the protocol, and in a Group.
func TestTrace_StartHasTheCallersContext(t *testing.T) {
	type key struct{}
	ctx := context.WithValue(testkit.Context(t), key{}, "here")
	check := func(t *testing.T, d *diary, starts ...string) {
		t.Helper()
		d.mu.Lock()
		defer d.mu.Unlock()
		seen := make(map[string]bool)
		for i, e := range d.events {
			line, _, _ := strings.Cut(d.lines[i], " in ")
			if start := slices.Contains(starts, line); start {
				seen[line] = true
				require.NotNil(t, e.Context, line)
				assert.Equal(t, "here", e.Context.Value(key{}), line)
			} else if !strings.HasPrefix(line, "phase") {
				assert.Nil(t, e.Context, line)
			}
		}
		assert.Len(t, seen, len(starts))
	}
	for _, spares := range []int{0, 1} {
		var d diary
		s := newSpawner(t, forkspawn.Config{Trace: d.trace(), Spares: spares})
		if spares > 0 {
			require.NoError(t, s.AwaitSpares(ctx))
		}
		c, err := s.Spawn(ctx, spawnspec.Spec{Entry: "waits"})
		require.NoError(t, err)
		_, err = c.Stop(ctx)
		require.NoError(t, err)
		check(t, &d, "started", "phase spec", "phase ready", "ready")
	}

	var d diary
	s := newSpawner(t, forkspawn.Config{Trace: d.trace()})
	spawnError(t, ctx, s, roles.Command("exits-3"), spawnspec.Spec{Name: "exit3"})
	check(t, &d, "started", "phase connect", "boot failed")

	d = diary{}
	s = newSpawner(t, forkspawn.Config{Trace: d.trace()})
	spawnError(t, ctx, s, forkspawn.Command{Path: "/no/such/program"},
		spawnspec.Spec{Name: "none"})
	c, err := s.Start(ctx, roles.Command("exits-3"))
	require.NoError(t, err)
	c.Wait(ctx)
	check(t, &d, "boot failed", "started", "ready")

	d = diary{}
	s = newSpawner(t, forkspawn.Config{Trace: d.trace()})
	g, err := s.NewGroup(context.Background(), forkspawn.GroupConfig{})
	require.NoError(t, err)
	c, err = g.Spawn(ctx, spawnspec.Spec{Entry: "waits"})
	require.NoError(t, err)
	_, err = c.Stop(ctx)
	require.NoError(t, err)
	require.NoError(t, g.Wait())
	check(t, &d, "started", "phase ready", "ready")
}
