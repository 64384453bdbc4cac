package forkspawn_test

import (
	"cmp"
	"context"
	"errors"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
)

// otherUser is the id of a user and a group with few rights.
const otherUser = 65534

// needSettings skips a test where the library's own fork is not used.
func needSettings(t *testing.T) {
	t.Helper()
	if portable {
		t.Skip("syscall.ForkExec has no such settings")
	}
}

// allSettings returns an attribute with every field, except Cgroup.
func allSettings() *forkspawn.SysAttr {
	return &forkspawn.SysAttr{
		Nice: new(7), Umask: new(0o027),
		Limits: map[string]forkspawn.Limit{
			"RLIMIT_NOFILE": {Soft: 61, Hard: 61}, "RLIMIT_CORE": {},
			"RLIMIT_STACK": {Soft: 4 << 20, Hard: math.MaxUint64},
		},
		Credential: &forkspawn.Credential{
			UID: otherUser, GID: 1234, Groups: []uint32{7, 4321}},
		NoNewPrivileges: true,
	}
}

// settingsFiles are the files with the settings of a process.
var settingsFiles = []string{"/proc/self/status", "/proc/self/limits", "/proc/self/stat",
	"/proc/self/cgroup"}

// hasAllSettings checks the settings in the files of a process.
func hasAllSettings(t testing.TB, files map[string]string) {
	t.Helper()
	status := blanked(files["/proc/self/status"])
	assert.Contains(t, status, "Uid: 65534 65534 65534 65534\n")
	assert.Contains(t, status, "Gid: 1234 1234 1234 1234\n")
	assert.Contains(t, status, "Groups: 7 4321\n")
	assert.Contains(t, status, "Umask: 0027\n")
	assert.Contains(t, status, "NoNewPrivs: 1\n")
	assert.Contains(t, status, "CapEff: 0000000000000000\n")
	limits := blanked(files["/proc/self/limits"])
	assert.Contains(t, limits, "Max open files 61 61 files\n")
	assert.Contains(t, limits, "Max core file size 0 0 bytes\n")
	assert.Contains(t, limits, "Max stack size 4194304 unlimited bytes\n")
	_, stat, _ := strings.Cut(files["/proc/self/stat"], ") ")
	assert.Equal(t, "7", strings.Fields(stat)[16], "the nice value")
}

// isPlain checks that a child of a command without settings has none, although spares
// have them.
func isPlain(t testing.TB, s *forkspawn.Spawner) {
	t.Helper()
	require.NoError(t, s.AwaitSpares(testkit.Context(t)))
	c, err := s.Spawn(testkit.Context(t),
		spawnspec.Spec{Entry: "reads-files", Args: settingsFiles},
		forkspawn.WithCommand(forkspawn.Command{}))
	require.NoError(t, err)
	assert.False(t, c.Boot().Spare)
	assert.Equal(t, cmp.Or(os.Getenv(testkit.MethodEnv), "exec"), c.Spec().Method)
	var files map[string]string
	require.NoError(t, c.Recv(testkit.Context(t), &files))
	assert.Contains(t, blanked(files["/proc/self/status"]), "Uid: 0 0 0 0\n")
}

// blanked returns the lines of a text with single blanks between their words.
func blanked(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString(strings.Join(strings.Fields(line), " ") + "\n")
	}
	return b.String()
}

// A child, a spare and a program begin with their settings.
func TestSysAttr_SetsTheChild(t *testing.T) {
	testkit.NeedRoot(t)
	needSettings(t)
	spawntest.NoLeaks(t)
	t.Run("children", func(t *testing.T) {
		networks(t, func(t *testing.T, listen transport.Addr) {
			for _, spares := range []int{0, 1} {
				s := newSpawner(t, forkspawn.Config{Listen: listen, AllowOtherUsers: true,
					Spares: spares, StopGrace: bound,
					Command: forkspawn.Command{Sys: allSettings()}})
				require.NoError(t, s.AwaitSpares(testkit.Context(t)))
				c := spawn(t, s, spawnspec.Spec{Entry: "reads-files", Args: settingsFiles})
				assert.Equal(t, spares == 1, c.Boot().Spare)
				assert.Equal(t, "exec", c.Spec().Method, "also with MethodForkserver")
				var files map[string]string
				require.NoError(t, c.Recv(testkit.Context(t), &files))
				hasAllSettings(t, files)
				result, err := c.Stop(testkit.Context(t))
				require.NoError(t, err)
				assert.Equal(t, forkspawn.Asked, result.By)
				isPlain(t, s)
			}
		})
	})
	t.Run("program", func(t *testing.T) {
		s := newSpawner(t, forkspawn.Config{})
		cmd := sh("umask; for f; do echo == $f; cat $f; done")
		cmd.Args = append(append(cmd.Args, "sh"), settingsFiles...)
		cmd.Sys = allSettings()
		c, err := s.Start(testkit.Context(t), cmd, forkspawn.WithStdout(forkspawn.Pipe()))
		require.NoError(t, err)
		out, err := io.ReadAll(c.Stdout())
		require.NoError(t, err)
		umask, rest, _ := strings.Cut(string(out), "== ")
		assert.Equal(t, "0027\n", umask)
		files := make(map[string]string)
		for text := range strings.SplitSeq(rest, "== ") {
			name, content, _ := strings.Cut(text, "\n")
			files[name] = content
		}
		hasAllSettings(t, files)
	})
}

// The kernel clears the parent-death signal and the parent's dumpable attribute when the
// child changes its user. The signal is set again, and so is the attribute.
func TestSysAttr_UserKeepsTheSignalAndTheParent(t *testing.T) {
	testkit.NeedRoot(t)
	spawntest.NoLeaks(t)
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer r.Close()
	var p forkspawn.Process
	text := make([]byte, len("65534\nGroups:\t\n"))
	onDyingThread(func() {
		p, err = forkspawn.StartProcess(forkspawn.ProcessAttr{Stdout: w,
			ParentDeathSignal: syscall.SIGKILL, Command: forkspawn.Command{Path: "sh",
				Args: []string{"-c", "id -u; grep Groups /proc/self/status; exec sleep 30"},
				Sys: &forkspawn.SysAttr{
					Credential: &forkspawn.Credential{UID: otherUser, GID: otherUser}}}})
		w.Close()
		if assert.NoError(t, err) {
			_, err = io.ReadFull(r, text)
			assert.NoError(t, err)
		}
	})
	require.NoError(t, err)
	assert.Equal(t, "65534 Groups:", strings.Join(strings.Fields(string(text)), " "),
		"root's supplementary groups are gone")
	assert.Equal(t, forkspawn.KilledStatus(syscall.SIGKILL, false), p.Wait(),
		"the thread has ended")
	dumpable, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	require.NoError(t, err)
	assert.Equal(t, 1, dumpable)
}

// onDyingThread calls f on a thread that ends with it. The first thread never ends.
func onDyingThread(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // without an unlock
		if unix.Gettid() == os.Getpid() {
			defer runtime.UnlockOSThread()
			onDyingThread(f)
			return
		}
		f()
	}()
	<-done
}

func TestSysAttr_EntersAControlGroup(t *testing.T) {
	needSettings(t)
	spawntest.NoLeaks(t)
	for name, controller := range map[string]string{"version 2": "", "with pids": "pids"} {
		t.Run(name, func(t *testing.T) {
			group := newControlGroup(t, controller)
			dir, err := os.Open(group.dir)
			require.NoError(t, err)
			defer dir.Close()
			s := newSpawner(t, forkspawn.Config{})
			cmd := sh("cat /proc/self/cgroup; ls /dev/fd/; read x; exit 5")
			cmd.Sys = &forkspawn.SysAttr{Cgroup: dir}
			c, err := s.Start(testkit.Context(t), cmd, forkspawn.WithStdin(forkspawn.Pipe()),
				forkspawn.WithStdout(forkspawn.Pipe()))
			require.NoError(t, err)
			assert.Positive(t, group.processes())
			require.NoError(t, c.Stdin().Close())
			out, err := io.ReadAll(c.Stdout())
			assert.ErrorContains(t, err, "exit status 5")
			assert.Contains(t, string(out), "/"+filepath.Base(group.dir)+"\n")
			assert.True(t, strings.HasSuffix(string(out), "\n0\n1\n2\n3\n"),
				"ls itself opens the fourth: %s", out)
			assert.Zero(t, group.processes())
		})
	}
}

// A frozen control group stops the child before the exec. The end of the context ends
// the start, and other starts work meanwhile.
func TestSysAttr_FrozenControlGroupHangsNothing(t *testing.T) {
	needSettings(t)
	spawntest.NoLeaks(t)
	group := newControlGroup(t, "")
	require.NoError(t, os.WriteFile(group.file("cgroup.freeze"), []byte("1"), 0))
	dir, err := os.Open(group.dir)
	require.NoError(t, err)
	defer dir.Close()
	s := newSpawner(t, forkspawn.Config{})
	ctx, cancel := context.WithCancelCause(testkit.Context(t))
	frozen := testkit.Background(t, func() error {
		_, err := s.Start(ctx, forkspawn.Command{Path: "/bin/true",
			Sys: &forkspawn.SysAttr{Cgroup: dir}})
		return err
	})
	testkit.Eventually(t, "the child is in the group", func() bool {
		return group.processes() == 1
	})
	p, err := forkspawn.StartProcess(forkspawn.ProcessAttr{
		Command: forkspawn.Command{Path: "/bin/true"}})
	require.NoError(t, err, "another start")
	assert.True(t, p.Wait().Success())
	cancel(errCancelled)
	assert.ErrorIs(t, frozen(), errCancelled)
	assert.Zero(t, group.processes())
}

// An error in the child names the setting and has the system's error, and nothing is
// left.
func TestSysAttr_ErrorsNameTheSetting(t *testing.T) {
	testkit.NeedRoot(t)
	needSettings(t)
	spawntest.NoLeaks(t)
	noGroup, err := os.Open(t.TempDir())
	require.NoError(t, err)
	defer noGroup.Close()
	limit := func(soft, hard uint64) *forkspawn.SysAttr {
		return &forkspawn.SysAttr{Limits: map[string]forkspawn.Limit{
			"RLIMIT_CORE": {}, "RLIMIT_NOFILE": {Soft: soft, Hard: hard}}}
	}
	for name, c := range map[string]struct {
		sys   *forkspawn.SysAttr
		lacks uint // a capability
		cause error
		text  string
	}{
		"soft above hard": {limit(10, 5), 0, syscall.EINVAL,
			"set RLIMIT_NOFILE to 10 (hard 5): invalid argument"},
		"hard raised": {limit(10, math.MaxUint64), 0, fs.ErrPermission,
			"set RLIMIT_NOFILE to 10 (hard unlimited): operation not permitted"},
		"nice": {&forkspawn.SysAttr{Nice: new(-5)}, unix.CAP_SYS_NICE, syscall.EACCES,
			"set the nice value to -5: permission denied"},
		"groups": {&forkspawn.SysAttr{Credential: &forkspawn.Credential{Groups: []uint32{3, 4}}},
			unix.CAP_SETGID, syscall.EPERM,
			"set the supplementary groups to [3 4]: operation not permitted"},
		"user": {&forkspawn.SysAttr{Credential: &forkspawn.Credential{UID: otherUser}},
			unix.CAP_SETUID, syscall.EPERM, "set the user to 65534: operation not permitted"},
		"user that it cannot signal": {
			&forkspawn.SysAttr{Credential: &forkspawn.Credential{UID: otherUser}},
			unix.CAP_KILL, syscall.EPERM,
			"run as user 65534 without CAP_KILL, which ends the child: operation not permitted"},
		"control group": {&forkspawn.SysAttr{Cgroup: noGroup}, 0, fs.ErrNotExist,
			"enter the control group " + noGroup.Name() + ": no such file or directory"},
	} {
		t.Run(name, func(t *testing.T) {
			var err error
			without(t, c.lacks, func() {
				_, err = forkspawn.StartProcess(forkspawn.ProcessAttr{
					Command: forkspawn.Command{Path: "/bin/true", Sys: c.sys}})
			})
			assert.EqualError(t, err, "start /bin/true: "+c.text)
			assert.ErrorIs(t, err, c.cause)
			var path *fs.PathError
			assert.ErrorAs(t, err, &path)
		})
	}
}

// The library refuses a setting that would have no effect.
func TestSysAttr_IsRefusedWhereItHasNoEffect(t *testing.T) {
	spawntest.NoLeaks(t)
	user := &forkspawn.SysAttr{
		Credential: &forkspawn.Credential{UID: uint32(os.Geteuid()) + 1, GID: otherUser}}
	abstract := transport.Addr{Scheme: "uds", Target: "@spawnwire-test-" + itoa(os.Getpid())}
	for name, c := range map[string]struct {
		cfg  forkspawn.Config
		cmd  forkspawn.Command
		text string
	}{
		"nice": {cmd: forkspawn.Command{Sys: &forkspawn.SysAttr{Nice: new(20)}},
			text: "Config.Command.Sys.Nice: 20 is not from -20 to 19"},
		"umask": {cmd: forkspawn.Command{Sys: &forkspawn.SysAttr{Umask: new(0o1777)}},
			text: "Config.Command.Sys.Umask: 01777 is not from 0 to 0o777"},
		"limit": {cmd: forkspawn.Command{Sys: &forkspawn.SysAttr{
			Limits: map[string]forkspawn.Limit{"NOFILE": {}}}},
			text: `Config.Command.Sys.Limits: no limit "NOFILE" in getrlimit(2)`},
		"id": {cmd: forkspawn.Command{Sys: &forkspawn.SysAttr{
			Credential: &forkspawn.Credential{UID: uint32(os.Geteuid()), GID: math.MaxUint32}}},
			text: "Config.Command.Sys.Credential: 4294967295 is no id"},
		"another user": {cmd: forkspawn.Command{Sys: user}, text: "Config.AllowOtherUsers: " +
			"a child of user " + itoa(os.Geteuid()+1) + " cannot connect to the Unix socket; " +
			"set it, or set Listen to tcp://127.0.0.1:0"},
		"another user, abstract": {forkspawn.Config{Listen: abstract}, forkspawn.Command{Sys: user},
			"Config.AllowOtherUsers: a child of user "},
		"a launcher": {cmd: forkspawn.Command{Launcher: noLauncher{}, Sys: &forkspawn.SysAttr{}},
			text: "Config.Command.Launcher: Files, Connections and Sys do not leave this machine"},
		"in this process": {forkspawn.Config{Method: forkspawn.MethodInProcess},
			forkspawn.Command{Sys: &forkspawn.SysAttr{}},
			`the start method "inprocess" runs a registered entry, and no command`},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSpawner(t, c.cfg)
			boot := spawnError(t, testkit.Context(t), s, c.cmd,
				spawnspec.Spec{Name: "echo", Entry: "echo"})
			assert.ErrorContains(t, boot, c.text)
			assert.Zero(t, boot.PID)
			var bad *forkspawn.ConfigError
			assert.Equal(t, name != "in this process", errors.As(boot, &bad))
		})
	}
}

// noLauncher starts nothing.
type noLauncher struct{}

func (noLauncher) Launch(context.Context, *forkspawn.Launch) (forkspawn.Launched, error) {
	return nil, errors.New("it was asked")
}

// The fork of package syscall has the credentials only.
func TestSysAttr_IsUnsupportedByForkExec(t *testing.T) {
	if !portable {
		t.Skip("the library's own fork has them all")
	}
	for field, sys := range map[string]*forkspawn.SysAttr{
		"Nice": {Nice: new(1)}, "Umask": {Umask: new(0o77)}, "Cgroup": {Cgroup: os.Stdin},
		"Limits":          {Limits: map[string]forkspawn.Limit{"RLIMIT_CORE": {}}},
		"NoNewPrivileges": {NoNewPrivileges: true},
	} {
		_, err := forkspawn.StartProcess(forkspawn.ProcessAttr{
			Command: forkspawn.Command{Path: "/bin/true", Sys: sys}})
		assert.ErrorIs(t, err, errors.ErrUnsupported)
		assert.ErrorContains(t, err, "start /bin/true: Command.Sys."+field+" needs ")
	}
}

// without calls f on a thread without a capability, if that is not 0.
func without(t testing.TB, capability uint, f func()) {
	t.Helper()
	if capability == 0 {
		f()
		return
	}
	var err error
	onDyingThread(func() {
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var has [2]unix.CapUserData
		err = unix.Capget(&header, &has[0])
		has[0].Effective &^= 1 << capability
		if err = errors.Join(err, unix.Capset(&header, &has[0])); err == nil {
			f()
		}
	})
	require.NoError(t, err)
}
