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

	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/internal/testkit"
)

// controlGroup is a control group with one controller, of version 1 or 2
// (cgroups(7)).
type controlGroup struct {
	t      *testing.T
	parent string
	dir    string
}

// newControlGroup makes a control group, or skips the test if that fails. Without a
// controller it is of version 2. The test's cleanup removes the group; the processes in
// it must have ended by then.
func newControlGroup(t *testing.T, controller string) *controlGroup {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mounts")
	require.NoError(t, err)
	why := error(errors.New("no control groups with the controller " + controller + " are mounted"))
	for line := range strings.Lines(string(mounts)) {
		mount := strings.Fields(line)
		switch {
		case mount[2] == "cgroup" && slices.Contains(strings.Split(mount[3], ","), controller):
		case mount[2] == "cgroup2" && controller == "":
		case mount[2] == "cgroup2":
			all, _ := os.ReadFile(filepath.Join(mount[1], "cgroup.controllers"))
			if !slices.Contains(strings.Fields(string(all)), controller) {
				continue
			}
			if err := os.WriteFile(filepath.Join(mount[1], "cgroup.subtree_control"),
				[]byte("+"+controller), 0); err != nil {
				why = err
				continue
			}
		default:
			continue
		}
		g := &controlGroup{t, mount[1],
			filepath.Join(mount[1], "spawnwire-test-"+itoa(os.Getpid()))}
		if err := os.Mkdir(g.dir, 0o755); err != nil {
			why = err
			continue
		}
		t.Cleanup(func() {
			testkit.Eventually(t, "the control group is empty", func() bool {
				return syscall.Rmdir(g.dir) == nil
			})
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

// remove moves a process out of the group, unless it has ended.
func (g *controlGroup) remove(pid int) {
	g.t.Helper()
	err := os.WriteFile(filepath.Join(g.parent, "cgroup.procs"), []byte(itoa(pid)), 0)
	if !errors.Is(err, syscall.ESRCH) {
		require.NoError(g.t, err)
	}
}

// processes returns how many processes are in the group.
func (g *controlGroup) processes() int {
	g.t.Helper()
	b, err := os.ReadFile(g.file("cgroup.procs"))
	require.NoError(g.t, err)
	return len(strings.Fields(string(b)))
}

// file returns the path of the first name that exists. The two versions of
// control groups use different names.
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

// limit sets a limit. The returned function restores the old one.
func (g *controlGroup) limit(n int, names ...string) (lift func()) {
	g.t.Helper()
	path := g.file(names...)
	old, err := os.ReadFile(path)
	require.NoError(g.t, err)
	require.NoError(g.t, os.WriteFile(path, []byte(itoa(n)), 0))
	return func() { require.NoError(g.t, os.WriteFile(path, old, 0)) }
}
