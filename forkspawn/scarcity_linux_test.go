package forkspawn_test

import (
	"errors"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// In the tests of TestScarcity the system has too little of a resource, or none.
// Each runs in a process of its own, because it makes the process unusable.

const (
	aloneEnv   = "SPAWNWIRE_TEST_ALONE" // the only test of this process
	ownFileEnv = "SPAWNWIRE_TEST_FILE"  // this program's file
)

// mainAlone is the end of TestMain in a process that alone has started. It looks
// for leaked goroutines; alone looks for files and processes.
func mainAlone(m *testing.M) {
	if os.Getenv(aloneEnv) != "" {
		forkspawn.Init()
		goleak.VerifyTestMain(m)
	}
}

// alone runs body in a process of its own, by running the same test there. The
// process has an empty TMPDIR, no XDG_RUNTIME_DIR, and the new namespaces of
// flags. The test fails if the process leaks goroutines or files in TMPDIR.
func alone(t *testing.T, flags uintptr, body func(t *testing.T)) {
	t.Helper()
	if os.Getenv(aloneEnv) == t.Name() {
		if flags&syscall.CLONE_NEWNS != 0 {
			require.NoError(t, syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""))
		}
		body(t)
		return
	}
	exe, err := os.Executable()
	require.NoError(t, err)
	tmp := testkit.ShortDir(t)
	require.NoError(t, os.Chmod(tmp, 0o777)) // because the process may change its user
	cmd := exec.Command(exe, "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=8m")
	cmd.Env = append(os.Environ(), aloneEnv+"="+t.Name(), ownFileEnv+"="+exe,
		"TMPDIR="+tmp, "XDG_RUNTIME_DIR=")
	attr := &syscall.SysProcAttr{Cloneflags: flags, Pdeathsig: syscall.SIGKILL}
	if flags != 0 && os.Geteuid() != 0 {
		attr.Cloneflags |= syscall.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	cmd.SysProcAttr = attr
	runtime.LockOSThread() // for Pdeathsig
	defer runtime.UnlockOSThread()
	out, err := cmd.CombinedOutput()
	if flags != 0 && cmd.ProcessState == nil &&
		(errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOSPC) ||
			errors.Is(err, syscall.EINVAL)) {
		t.Skipf("this machine allows no namespaces: %v", err)
	}
	require.NoError(t, err, "%s", out)
	if said, _, skipped := strings.Cut(string(out), "\n--- SKIP: "+t.Name()+" ("); skipped {
		t.Skipf("%s", said) // it contains the reason
	}
	require.Contains(t, string(out), "\n--- PASS: "+t.Name()+" (", "it did run")
	t.Logf("%s", out)
	left, err := os.ReadDir(tmp)
	require.NoError(t, err)
	assert.Empty(t, left, "files are left")
}

// nobody is the id of a user without processes on this machine. Two runs of these
// tests at once have different ones.
var nobody = 20_000 + os.Getpid()%40_000

// become changes the user of this process, because some limits do not apply to
// root.
func become(t *testing.T, uid int) {
	t.Helper()
	require.NoError(t, syscall.Setgroups(nil))
	require.NoError(t, syscall.Setresgid(uid, uid, uid))
	require.NoError(t, syscall.Setresuid(uid, uid, uid))
}

// warm makes the process open the runtime's poller and n threads, which it keeps.
// Later the Go runtime would end the process when it cannot make a thread.
func warm(t *testing.T, n int) {
	t.Helper()
	var all, done sync.WaitGroup
	all.Add(n)
	for range n {
		done.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			all.Done()
			all.Wait()
		})
	}
	done.Wait()
	s, err := forkspawn.New(forkspawn.Config{Stdout: forkspawn.Capture(nil)})
	require.NoError(t, err)
	works(t, s)
	require.NoError(t, s.Close())
}

// works checks that the Spawner starts a child, and that the child answers and
// stops.
func works(t *testing.T, s *forkspawn.Spawner) {
	t.Helper()
	c := spawn(t, s, spawnspec.Spec{Entry: "echo"})
	answers(t, c)
	result, err := c.Stop(testkit.Context(t))
	require.NoError(t, err)
	assert.Equal(t, forkspawn.Asked, result.By)
	assert.True(t, result.Status.Success(), result)
}

func answers(t *testing.T, c *forkspawn.Child) {
	t.Helper()
	require.NoError(t, c.Send(testkit.Context(t), "hello"))
	var got string
	require.NoError(t, c.Recv(testkit.Context(t), &got))
	assert.Equal(t, "hello", got)
}

// descriptors lists the targets of this process's descriptors, without the one of
// the listing.
func descriptors(t *testing.T) []string {
	t.Helper()
	names, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	var list []string
	for _, n := range names {
		target, err := os.Readlink("/proc/self/fd/" + n.Name())
		if err == nil && !strings.HasSuffix(target, "/fd") {
			list = append(list, target)
		}
	}
	slices.Sort(list)
	return list
}

// awaitDescriptors waits until this process has the same descriptors as before.
func awaitDescriptors(t *testing.T, before []string) {
	t.Helper()
	testkit.Eventually(t, "the descriptors are closed", func() bool {
		return slices.Equal(before, descriptors(t))
	})
}

// connections counts this process's sockets, with listeners.
func connections(t *testing.T) (n int) {
	t.Helper()
	for _, d := range descriptors(t) {
		if strings.HasPrefix(d, "socket:") {
			n++
		}
	}
	return n
}

// starve leaves this process free descriptors that it can still open, until fed
// is called.
func starve(t *testing.T, free int) (fed func()) {
	t.Helper()
	return sync.OnceFunc(testkit.ExhaustDescriptors(free))
}

// names checks that an error is a ResourceError of one line with these words.
func names(t *testing.T, err error, is error, words ...string) {
	t.Helper()
	t.Log(err)
	var r *forkspawn.ResourceError
	if assert.ErrorAs(t, err, &r) {
		assert.NotEmpty(t, r.Resource)
		assert.NotEmpty(t, r.Remedy)
	}
	assert.ErrorIs(t, err, is)
	assert.NotErrorIs(t, err, forkspawn.ErrBootTimeout)
	assert.NotContains(t, err.Error(), "\n", "one line")
	for _, w := range words {
		assert.Contains(t, err.Error(), w)
	}
}

// mount mounts a tmpfs in this process's mount namespace. The test's cleanup
// unmounts it.
func mount(t *testing.T, dir, options string) {
	t.Helper()
	require.NoError(t, syscall.Mount("tmpfs", dir, "tmpfs", 0, options))
	t.Cleanup(func() { assert.NoError(t, syscall.Unmount(dir, syscall.MNT_DETACH)) })
}

// The kernel refuses an environment that is too large with E2BIG.
func TestScarcity_EnvironmentIsTooLarge(t *testing.T) {
	s := newSpawner(t, forkspawn.Config{})
	command := forkspawn.Command{Env: append(os.Environ(), "LARGE="+strings.Repeat("x", 200<<10))}
	_, err := s.Spawn(testkit.Context(t), spawnspec.Spec{Entry: "echo"},
		forkspawn.WithCommand(command))
	var resource *forkspawn.ResourceError
	require.ErrorAs(t, err, &resource)
	assert.ErrorIs(t, err, syscall.E2BIG)
	assert.Contains(t, resource.Resource, "environment")
}
