package forkspawn_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// controlGroup is one that a test has made, with one controller: of version 1 of control groups, or of version 2 (cgroups(7)).
type controlGroup struct {
	t      *testing.T
	parent string
	dir    string
}

// newControlGroup skips the test where none can be made. The test's end removes it: its processes must have ended then.
func newControlGroup(t *testing.T, controller string) *controlGroup {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mounts")
	require.NoError(t, err)
	why := error(errors.New("no control groups with the controller " + controller + " are mounted"))
	for line := range strings.Lines(string(mounts)) {
		mount := strings.Fields(line)
		switch {
		case mount[2] == "cgroup" && slices.Contains(strings.Split(mount[3], ","), controller):
		case mount[2] == "cgroup2":
			all, _ := os.ReadFile(filepath.Join(mount[1], "cgroup.controllers"))
			if !slices.Contains(strings.Fields(string(all)), controller) {
				continue
			}
			if err := os.WriteFile(filepath.Join(mount[1], "cgroup.subtree_control"), []byte("+"+controller), 0); err != nil {
				why = err
				continue
			}
		default:
			continue
		}
		g := &controlGroup{t, mount[1], filepath.Join(mount[1], "spawnwire-test-"+itoa(os.Getpid()))}
		if err := os.Mkdir(g.dir, 0o755); err != nil {
			why = err
			continue
		}
		t.Cleanup(func() {
			eventually(t, "the control group is empty", func() bool { return syscall.Rmdir(g.dir) == nil })
		})
		return g
	}
	t.Skip("cannot make a control group here:", why)
	return nil
}

// add moves a process into the group.
func (g *controlGroup) add(pid int) {
	g.t.Helper()
	require.NoError(g.t, os.WriteFile(filepath.Join(g.dir, "cgroup.procs"), []byte(itoa(pid)), 0))
}

// remove moves a process out of it, unless it has ended.
func (g *controlGroup) remove(pid int) {
	g.t.Helper()
	err := os.WriteFile(filepath.Join(g.parent, "cgroup.procs"), []byte(itoa(pid)), 0)
	if !errors.Is(err, syscall.ESRCH) {
		require.NoError(g.t, err)
	}
}

// processes counts those in the group.
func (g *controlGroup) processes() int {
	g.t.Helper()
	b, err := os.ReadFile(g.file("cgroup.procs"))
	require.NoError(g.t, err)
	return len(strings.Fields(string(b)))
}

// file returns the first of the names that there is: those of version 2 are others.
func (g *controlGroup) file(names ...string) string {
	g.t.Helper()
	for _, name := range names {
		if path := filepath.Join(g.dir, name); exists(path) {
			return path
		}
	}
	require.Fail(g.t, "missing in the control group", "%q", names)
	return ""
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func (g *controlGroup) number(names ...string) int {
	g.t.Helper()
	b, err := os.ReadFile(g.file(names...))
	require.NoError(g.t, err)
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	require.NoError(g.t, err)
	return n
}

// limit sets a limit, until the returned function is called.
func (g *controlGroup) limit(n int, names ...string) (lift func()) {
	g.t.Helper()
	path := g.file(names...)
	old, err := os.ReadFile(path)
	require.NoError(g.t, err)
	require.NoError(g.t, os.WriteFile(path, []byte(itoa(n)), 0))
	return func() { require.NoError(g.t, os.WriteFile(path, old, 0)) }
}

// pids.max lets the start through bit by bit: at first the clone fails, then the child's runtime.
func TestControlGroupRunsOutOfProcesses(t *testing.T) {
	alone(t, 0, func(t *testing.T) {
		group := newControlGroup(t, "pids")
		warm(t, 40)
		s := newSpawner(t, forkspawn.Config{})
		before := descriptors(t)
		old := spawn(t, s, spawnspec.Spec{Entry: "echo"})
		group.add(os.Getpid())
		defer group.remove(os.Getpid())
		clones, made := 0, 0
		for more := 0; made < 2; more++ {
			require.Less(t, more, 60)
			lift := group.limit(group.number("pids.current")+more, "pids.max")
			c, err := s.Spawn(testContext(t), spawnspec.Spec{Entry: "echo"})
			lift()
			var boot *forkspawn.BootError
			switch {
			case err == nil:
				made++
				answers(t, c)
				_, err := c.Stop(testContext(t))
				require.NoError(t, err)
			case errors.Is(err, syscall.EAGAIN):
				clones++
				names(t, err, syscall.EAGAIN, "pids.max", "/proc/self/exe")
				require.ErrorAs(t, err, &boot)
				assert.Equal(t, handshake.PhaseStart, boot.Phase)
				assert.Zero(t, boot.PID)
			default:
				t.Log(more, err)
				require.ErrorAs(t, err, &boot)
				assert.ErrorIs(t, err, forkspawn.ErrDied)
				assert.Regexp(t, `may need to increase max user processes|pthread_create failed|ThreadSanitizer`, err.Error())
				assert.False(t, alive(boot.PID))
			}
		}
		assert.NotZero(t, clones, "the limit did bind")
		answers(t, old)
		works(t, s)
		_, err := old.Stop(testContext(t))
		require.NoError(t, err)
		eventually(t, "descriptors are given back", func() bool { return slices.Equal(before, descriptors(t)) })
	})
}
