package forkspawn_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
)

// What happens when the system runs out of something, or lacks it. Each test runs in a process of its own,
// which may ruin itself: see alone.

const (
	aloneEnv   = "SPAWNWIRE_TEST_ALONE" // the test that this process was started for, alone
	ownFileEnv = "SPAWNWIRE_TEST_FILE"  // this program's file
	starveEnv  = "SPAWNWIRE_TEST_FREE"  // with how many descriptors left to open a child begins
)

func init() {
	forkspawn.Register("nest", nest)
	forkspawn.Register("printer", printer)
	forkspawn.Register("relieved", relieved)
	if free, err := strconv.Atoi(os.Getenv(starveEnv)); err == nil {
		relieve = exhaust(free)
	}
}

// relieve ends the want of descriptors that a child began with.
var relieve func()

// nest has a child of its own, and tells its pid.
func nest(ctx context.Context, p *forkspawn.Parent) error {
	s, err := forkspawn.New(forkspawn.Config{})
	if err != nil {
		return err
	}
	defer s.Close()
	c, err := s.Spawn(ctx, spawnspec.Spec{Entry: "echo"})
	if err != nil {
		return err
	}
	if err := p.Send(ctx, c.PID()); err != nil {
		return err
	}
	<-ctx.Done()
	return ctx.Err()
}

// printed is less than what waits for a slow writer.
const printed = 512 << 10

// printer writes to its stdout, and a line more when it is told to.
func printer(ctx context.Context, p *forkspawn.Parent) error {
	io.WriteString(os.Stdout, strings.Repeat("z", printed))
	var v string
	if err := p.Recv(ctx, &v); err != nil {
		return err
	}
	io.WriteString(os.Stdout, "one more line\n")
	return nil
}

// relieved has descriptors again when it is told to, and does not receive any more.
func relieved(ctx context.Context, p *forkspawn.Parent) error {
	var v string
	if err := p.Recv(ctx, &v); err != nil {
		return err
	}
	relieve()
	<-ctx.Done()
	return ctx.Err()
}

// mainAlone is the end of TestMain in a process that runs one test alone. For files and processes that are left
// looks the one that started it.
func mainAlone(m *testing.M) {
	if os.Getenv(aloneEnv) != "" {
		forkspawn.Init()
		goleak.VerifyTestMain(m)
	}
}

// alone runs body in a process of its own: this very test in a new process, which has an empty TMPDIR and no
// XDG_RUNTIME_DIR, and with flags new namespaces. goleak looks at it in the end, and nothing may be left
// in its TMPDIR.
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
	tmp, err := os.MkdirTemp("", "sw") // and not t.TempDir: a long name would leave no room for a socket's
	require.NoError(t, err)
	defer os.RemoveAll(tmp)
	require.NoError(t, os.Chmod(tmp, 0o777)) // the process may become another user
	cmd := exec.Command(exe, "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=120s")
	cmd.Env = append(os.Environ(), aloneEnv+"="+t.Name(), ownFileEnv+"="+exe, "TMPDIR="+tmp, "XDG_RUNTIME_DIR=")
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
	if flags != 0 && cmd.ProcessState == nil && (errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EINVAL)) {
		t.Skipf("this machine allows no namespaces: %v", err)
	}
	require.NoError(t, err, "%s", out)
	if said, _, skipped := strings.Cut(string(out), "\n--- SKIP: "+t.Name()+" ("); skipped {
		t.Skipf("%s", said) // the reason is in it
	}
	require.Contains(t, string(out), "\n--- PASS: "+t.Name()+" (", "it did run")
	t.Logf("%s", out)
	left, err := os.ReadDir(tmp)
	require.NoError(t, err)
	assert.Empty(t, left, "files are left")
}

// needRoot skips where the process may not change its user or its mounts.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

// nobody is a user that nothing else on the machine runs as, not even these tests if they run twice at once.
var nobody = 20_000 + os.Getpid()%40_000

// become makes this process another user's, whom the limits bind that do not bind root.
func become(t *testing.T, uid int) {
	t.Helper()
	require.NoError(t, syscall.Setgroups(nil))
	require.NoError(t, syscall.Setresgid(uid, uid, uid))
	require.NoError(t, syscall.Setresuid(uid, uid, uid))
}

// warm makes a process have what it opens once and keeps: the runtime's poller, and threads for n
// goroutines. The Go runtime ends a process that cannot have a thread.
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

// works checks that the Spawner starts a child that answers and ends as it is asked.
func works(t *testing.T, s *forkspawn.Spawner) {
	t.Helper()
	c := spawn(t, s, spawnspec.Spec{Entry: "echo"})
	answers(t, c)
	result, err := c.Stop(testContext(t))
	require.NoError(t, err)
	assert.Equal(t, forkspawn.EndedAsked, result.By)
	assert.True(t, result.Status.Success(), result)
}

func answers(t *testing.T, c *forkspawn.Child) {
	t.Helper()
	require.NoError(t, c.Send(testContext(t), "hello"))
	var got string
	require.NoError(t, c.Recv(testContext(t), &got))
	assert.Equal(t, "hello", got)
}

// descriptors lists this process's, but for the listing's own.
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

// connections counts this process's sockets, those that listen too.
func connections(t *testing.T) (n int) {
	t.Helper()
	for _, d := range descriptors(t) {
		if strings.HasPrefix(d, "socket:") {
			n++
		}
	}
	return n
}

// starve leaves this process so many descriptors that it can still open, until fed is called.
func starve(t *testing.T, free int) (fed func()) {
	t.Helper()
	return sync.OnceFunc(exhaust(free))
}

// exhaust is starve. The limit bounds the number of a descriptor, not how many there are: it fills the gaps.
func exhaust(free int) (undo func()) {
	must := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	var old unix.Rlimit
	must(unix.Getrlimit(unix.RLIMIT_NOFILE, &old))
	must(unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 128, Max: old.Max}))
	var taken []int
	for {
		fd, err := unix.FcntlInt(0, unix.F_DUPFD_CLOEXEC, 3)
		if err == unix.EMFILE {
			break
		}
		must(err)
		taken = append(taken, fd)
	}
	for range min(free, len(taken)) {
		unix.Close(taken[len(taken)-1])
		taken = taken[:len(taken)-1]
	}
	return func() {
		for _, fd := range taken {
			unix.Close(fd)
		}
		must(unix.Setrlimit(unix.RLIMIT_NOFILE, &old))
	}
}

// names checks that an error is a ResourceError with these words in its one line.
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

func TestDescriptorsRunOutDuringNew(t *testing.T) {
	alone(t, 0, func(t *testing.T) {
		warm(t, 1)
		networks(t, func(t *testing.T, listen transport.Addr) {
			before := descriptors(t)
			made := 0
			for free := 0; made < 3; free++ {
				require.Less(t, free, 20)
				fed := starve(t, free)
				s, err := forkspawn.New(forkspawn.Config{Listen: listen, Subreaper: true})
				if err != nil {
					names(t, err, syscall.EMFILE, "too many open files", "RLIMIT_NOFILE is 128", "ulimit -n")
					left, err := filepath.Glob(os.TempDir() + "/*")
					require.NoError(t, err)
					assert.Empty(t, left, "a directory is left, with %d descriptors", free)
					fed()
				} else {
					made++
					starved := starve(t, 0)
					assert.NoError(t, s.Close(), "that needs no descriptor")
					starved()
					fed()
				}
				eventually(t, "descriptors are given back", func() bool { return slices.Equal(before, descriptors(t)) })
			}
		})
	})
}

func TestDescriptorsRunOutDuringSpawn(t *testing.T) {
	alone(t, 0, func(t *testing.T) {
		warm(t, 1)
		for name, cfg := range map[string]forkspawn.Config{
			"both captured": {Stdout: forkspawn.Capture(nil), Stderr: forkspawn.Capture(io.Discard)},
			"null device":   {Stdout: forkspawn.Null(), Stderr: forkspawn.Null()},
			"own":           {Stdin: forkspawn.Inherit(), Stdout: forkspawn.Inherit(), Stderr: forkspawn.Inherit()},
		} {
			t.Run(name, func(t *testing.T) {
				networks(t, func(t *testing.T, listen transport.Addr) {
					if name == "own" && !listen.IsZero() {
						t.Skip("it takes two seconds")
					}
					cfg.Listen = listen
					s := newSpawner(t, cfg)
					require.NoError(t, s.Warm(testContext(t)), "its template, where there is one")
					before := descriptors(t)
					made := 0
					for free := 0; made < 3; free++ {
						require.Less(t, free, 20)
						// What was given back is closed by goroutines that nobody waits for.
						eventually(t, "descriptors are given back", func() bool { return slices.Equal(before, descriptors(t)) })
						fed := starve(t, free)
						c, err := s.Spawn(testContext(t), spawnspec.Spec{Entry: "echo"})
						if err != nil {
							var boot *forkspawn.BootError
							require.ErrorAs(t, err, &boot)
							names(t, err, syscall.EMFILE, "too many open files", "RLIMIT_NOFILE is 128")
							if boot.PID != 0 {
								assert.Equal(t, handshake.PhaseConnect, boot.Phase)
								assert.False(t, alive(boot.PID))
							}
						} else {
							made++
							t.Logf("%d descriptors are enough", free)
							starved := starve(t, 0)
							answers(t, c)
							result, err := c.Stop(testContext(t))
							require.NoError(t, err)
							assert.Equal(t, forkspawn.EndedAsked, result.By, "also without a control connection")
							starved()
						}
						fed()
						eventually(t, "descriptors are given back", func() bool { return slices.Equal(before, descriptors(t)) })
						works(t, s)
					}
				})
			})
		}
	})
}

// A process that has left its group is found and ended by a subreaper that has only the descriptors that the child
// gives back.
func TestSubreaperWorksWithoutDescriptors(t *testing.T) {
	alone(t, 0, func(t *testing.T) {
		warm(t, 1)
		before := descriptors(t)
		s, err := forkspawn.New(forkspawn.Config{Subreaper: true})
		require.NoError(t, err)
		cmd := sh(`setsid sleep 60 & echo $! >&2; exec /proc/$PPID/exe`)
		for range 2 {
			c, err := s.SpawnCommand(testContext(t), cmd, spawnspec.Spec{Entry: "echo"})
			require.NoError(t, err)
			var stray int
			eventually(t, "the stray's number", func() bool {
				_, err := fmt.Sscan(c.StderrTail(), &stray)
				return err == nil
			})
			// It has left the group when it is the leader of a session of its own.
			eventually(t, "the stray is one", func() bool { sid, err := unix.Getsid(stray); return err == nil && sid == stray })
			fed := starve(t, 0)
			_, err = c.Stop(testContext(t))
			require.NoError(t, err)
			eventually(t, "the stray is gone", func() bool { return !alive(stray) })
			fed()
			works(t, s)
		}
		require.NoError(t, s.Close())
		eventually(t, "descriptors are given back", func() bool { return slices.Equal(before, descriptors(t)) })
	})
}

// A child that has no descriptor for its control connection opens that as soon as it has one.
func TestControlConnectionComesLater(t *testing.T) {
	alone(t, 0, func(t *testing.T) {
		s := newSpawner(t, forkspawn.Config{StopGrace: bound})
		before := connections(t)
		for free := 0; ; free++ {
			require.Less(t, free, 20)
			cmd := forkspawn.Command{Env: append(os.Environ(), starveEnv+"="+itoa(free))}
			c, err := s.SpawnCommand(testContext(t), cmd, spawnspec.Spec{Entry: "relieved"})
			if err != nil {
				t.Log(free, err)
				continue
			}
			t.Logf("%d descriptors are enough to be ready", free)
			eventually(t, "there is one connection", func() bool { return connections(t) == before+1 }) // and those that failed have gone
			require.NoError(t, c.Send(testContext(t), "there are more now"))
			eventually(t, "the second connection is there", func() bool { return connections(t) == before+2 })
			result, err := c.Stop(testContext(t))
			require.NoError(t, err)
			assert.Equal(t, forkspawn.EndedAsked, result.By)
			return
		}
	})
}

// The child is started and waits in the queue; meanwhile descriptors are given back.
func TestChildIsAcceptedWhenDescriptorsAreThereAgain(t *testing.T) {
	alone(t, 0, func(t *testing.T) {
		warm(t, 1)
		networks(t, func(t *testing.T, listen transport.Addr) {
			failed := make(lineOf, 1)
			s := newSpawner(t, forkspawn.Config{Listen: listen, Logger: slog.New(failed),
				Stdin: forkspawn.Inherit(), Stdout: forkspawn.Inherit(), Stderr: forkspawn.Inherit()})
			fed := starve(t, 1) // for the pidfd
			child := make(chan *forkspawn.Child, 1)
			go func() {
				c, err := s.Spawn(testContext(t), spawnspec.Spec{Entry: "echo"})
				assert.NoError(t, err)
				child <- c
			}()
			line := <-failed
			assert.Contains(t, line, "accept failed")
			assert.Contains(t, line, "too many open files")
			fed()
			c := <-child
			require.NotNil(t, c)
			answers(t, c)
			works(t, s)
		})
	})
}

// lineOf is a log handler that hands on the first warning.
type lineOf chan string

func (lineOf) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelWarn }
func (l lineOf) WithAttrs([]slog.Attr) slog.Handler         { return l }
func (l lineOf) WithGroup(string) slog.Handler              { return l }
func (l lineOf) Handle(_ context.Context, r slog.Record) error {
	line := r.Message
	r.Attrs(func(a slog.Attr) bool { line += " " + a.String(); return true })
	select {
	case l <- line:
	default:
	}
	return nil
}

// Many calls of Spawn at once take each other's descriptors: each has its answer, and none is a time-out.
func TestMassStartWithTooFewDescriptorsEnds(t *testing.T) {
	alone(t, 0, func(t *testing.T) {
		warm(t, 1)
		s := newSpawner(t, forkspawn.Config{})
		require.NoError(t, s.Warm(testContext(t)), "its template, where there is one")
		before := descriptors(t)
		fed := starve(t, 40)
		var mu sync.Mutex
		made := 0
		var wg sync.WaitGroup
		for range 40 {
			wg.Go(func() {
				_, err := s.Spawn(testContext(t), spawnspec.Spec{Entry: "echo"})
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					made++
					return
				}
				assert.ErrorIs(t, err, syscall.EMFILE)
				assert.NotErrorIs(t, err, forkspawn.ErrBootTimeout)
			})
		}
		wg.Wait()
		t.Logf("%d of 40 children with 40 descriptors", made)
		assert.Len(t, s.Children(), made)
		for _, c := range s.Children() {
			_, err := c.Stop(testContext(t))
			assert.NoError(t, err)
		}
		fed()
		works(t, s)
		eventually(t, "descriptors are given back", func() bool { return slices.Equal(before, descriptors(t)) })
	})
}

// limited is a command that starts this program again under a limit of the shell's.
func limited(ulimit string) forkspawn.Command {
	return sh("ulimit " + ulimit + ` && exec /proc/$PPID/exe`)
}

func TestChildWithTooFewDescriptorsSaysSo(t *testing.T) {
	alone(t, 0, func(t *testing.T) {
		s := newSpawner(t, forkspawn.Config{})
		made := 0
		for n := 4; made < 3; n++ {
			require.Less(t, n, 40)
			c, err := s.SpawnCommand(testContext(t), limited("-n "+itoa(n)), spawnspec.Spec{Name: "limited", Entry: "echo"})
			if err == nil {
				made++
				t.Logf("%d descriptors are enough", n)
				answers(t, c)
				result, err := c.Stop(testContext(t))
				require.NoError(t, err)
				assert.Equal(t, forkspawn.EndedAsked, result.By, "also without a control connection")
				assert.True(t, result.Status.Success(), result)
				continue
			}
			var boot *forkspawn.BootError
			require.ErrorAs(t, err, &boot)
			t.Log(n, err)
			assert.ErrorIs(t, err, forkspawn.ErrDied)
			assert.True(t, boot.Status.Known())
			assert.Regexp(t, regexp.MustCompile(`too many open files|Too many open files|failed with 24|Error 24|errno=24`), err.Error())
			assert.False(t, alive(boot.PID))
		}
		works(t, s)
	})
}

func TestChildWithoutMemorySaysSo(t *testing.T) {
	alone(t, 0, func(t *testing.T) {
		s := newSpawner(t, forkspawn.Config{})
		for _, kib := range []int{8 << 10, 50 << 10} {
			_, err := s.SpawnCommand(testContext(t), limited("-v "+itoa(kib)), spawnspec.Spec{Name: "limited", Entry: "echo"})
			require.ErrorIs(t, err, forkspawn.ErrDied)
			t.Log(err)
			var boot *forkspawn.BootError
			require.ErrorAs(t, err, &boot)
			assert.False(t, alive(boot.PID))
		}
		works(t, s)
	})
}

// RLIMIT_NPROC lets the start through bit by bit: at first the clone fails, then the child's runtime.
func TestProcessesRunOut(t *testing.T) {
	alone(t, 0, func(t *testing.T) {
		needRoot(t)
		become(t, nobody)
		warm(t, 40)
		s := newSpawner(t, forkspawn.Config{})
		before := descriptors(t)
		old := spawn(t, s, spawnspec.Spec{Entry: "echo"})
		var limit unix.Rlimit
		require.NoError(t, unix.Getrlimit(unix.RLIMIT_NPROC, &limit))
		toStop := spawn(t, s, spawnspec.Spec{Entry: "echo"})
		clones, made := 0, 0
		for more := 0; made < 2; more++ {
			require.Less(t, more, 60)
			running := threads(t, os.Getpid()) + threads(t, old.PID())
			if more == 0 {
				running += threads(t, toStop.PID())
			}
			require.NoError(t, unix.Setrlimit(unix.RLIMIT_NPROC, &unix.Rlimit{Cur: uint64(running + more), Max: limit.Max}))
			c, err := s.Spawn(testContext(t), spawnspec.Spec{Entry: "echo"})
			if more == 0 {
				answers(t, old)
				result, err := toStop.Stop(testContext(t))
				require.NoError(t, err, "to end a process takes none")
				assert.Equal(t, forkspawn.EndedAsked, result.By)
			}
			require.NoError(t, unix.Setrlimit(unix.RLIMIT_NPROC, &limit))
			var boot *forkspawn.BootError
			switch {
			case err == nil:
				made++
				t.Logf("%d more are enough", more)
				answers(t, c)
				_, err := c.Stop(testContext(t))
				require.NoError(t, err)
			case errors.Is(err, syscall.EAGAIN):
				clones++
				names(t, err, syscall.EAGAIN, "RLIMIT_NPROC is "+itoa(running+more), "pids.max", "ulimit -u", "/proc/self/exe")
				require.ErrorAs(t, err, &boot)
				assert.Equal(t, handshake.PhaseStart, boot.Phase)
				assert.Zero(t, boot.PID)
			default:
				t.Log(more, err)
				require.ErrorAs(t, err, &boot)
				assert.ErrorIs(t, err, forkspawn.ErrDied)
				assert.Regexp(t, regexp.MustCompile(`may need to increase max user processes|pthread_create failed|ThreadSanitizer`), err.Error())
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

func threads(t *testing.T, pid int) int {
	t.Helper()
	list, err := os.ReadDir("/proc/" + itoa(pid) + "/task")
	require.NoError(t, err)
	return len(list)
}

// A clone fails with ENOMEM in a pid namespace whose first process has ended, as it does when memory is
// scarce.
func TestMemoryRunsOutAtTheClone(t *testing.T) {
	alone(t, syscall.CLONE_NEWPID, func(t *testing.T) {
		warm(t, 4)
		own, err := os.Open("/proc/self/ns/pid")
		require.NoError(t, err)
		defer own.Close()
		scarce := true
		s := newSpawner(t, forkspawn.Config{NoParentDeathSignal: true, Starter: starter(func(ctx context.Context, attr forkspawn.ProcessAttr) (forkspawn.Process, error) {
			if scarce {
				if err := unix.Unshare(unix.CLONE_NEWPID); err != nil {
					return nil, err
				}
				defer func() { assert.NoError(t, unix.Setns(int(own.Fd()), unix.CLONE_NEWPID)) }()
				first, err := forkspawn.StartProcess(forkspawn.ProcessAttr{Command: forkspawn.Command{Path: "true"}})
				if err != nil {
					return nil, err
				}
				first.Wait()
			}
			p, err := forkspawn.StartProcess(attr)
			if err != nil {
				return nil, err
			}
			return p, nil
		})})
		before := descriptors(t)
		_, err = s.Spawn(testContext(t), spawnspec.Spec{Name: "memory", Entry: "echo"})
		names(t, err, syscall.ENOMEM, "cannot allocate memory", "pid namespace")
		eventually(t, "descriptors are given back", func() bool { return slices.Equal(before, descriptors(t)) })
		scarce = false
		works(t, s)
	})
}

type starter func(context.Context, forkspawn.ProcessAttr) (forkspawn.Process, error)

func (f starter) Start(ctx context.Context, attr forkspawn.ProcessAttr) (forkspawn.Process, error) {
	return f(ctx, attr)
}

// mount mounts a tmpfs, in this process's own mount namespace, until the test's end.
func mount(t *testing.T, dir, options string) {
	t.Helper()
	require.NoError(t, syscall.Mount("tmpfs", dir, "tmpfs", 0, options))
	t.Cleanup(func() { assert.NoError(t, syscall.Unmount(dir, syscall.MNT_DETACH)) })
}

// readOnly makes the file system at dir read-only, in this process's own mount namespace, until the test's end.
func readOnly(t *testing.T, dir string) {
	t.Helper()
	require.NoError(t, syscall.Mount(dir, dir, "", syscall.MS_BIND, ""))
	require.NoError(t, syscall.Mount("", dir, "", syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY, ""))
	t.Cleanup(func() { assert.NoError(t, syscall.Unmount(dir, syscall.MNT_DETACH)) })
}

func dirOf(s *forkspawn.Spawner) string { return filepath.Dir(filepath.Dir(s.Addr().Target)) }

// The places for the socket: each that is missing or of no use is passed over, and when none is left
// the error names them all, and another kind of address works still.
func TestSocketFindsItsPlace(t *testing.T) {
	alone(t, syscall.CLONE_NEWNS, func(t *testing.T) {
		long := "/" + strings.Repeat("long/", 40)[:199] // 200 characters
		made := func(t *testing.T, where string) {
			t.Helper()
			s, err := forkspawn.New(forkspawn.Config{})
			require.NoError(t, err)
			assert.Equal(t, where, dirOf(s))
			works(t, s)
			require.NoError(t, s.Close())
		}
		nowhere := func(t *testing.T, is error, words ...string) {
			t.Helper()
			before := descriptors(t)
			_, err := forkspawn.New(forkspawn.Config{})
			names(t, err, is, append(words, "TMPDIR", "Config.Listen")...)
			assert.Equal(t, before, descriptors(t))
			for _, addr := range []transport.Addr{{Scheme: "tcp", Target: "127.0.0.1:0"}, {Scheme: "uds", Target: "@spawnwire-" + itoa(os.Getpid())}} {
				works(t, newSpawner(t, forkspawn.Config{Listen: addr}))
			}
		}
		tmp := os.TempDir()

		t.Run("TMPDIR of 200 characters", func(t *testing.T) {
			mount(t, "/tmp", "") // so that there is something to make it in
			require.NoError(t, os.MkdirAll("/tmp"+long, 0o700))
			t.Setenv("TMPDIR", "/tmp"+long)
			made(t, "/tmp")
		})
		t.Run("TMPDIR is missing", func(t *testing.T) {
			mount(t, "/tmp", "")
			t.Setenv("TMPDIR", "/no/such/directory")
			made(t, "/tmp")
		})
		t.Run("TMPDIR is read-only", func(t *testing.T) {
			readOnly(t, tmp)
			made(t, "/tmp")
		})
		t.Run("TMPDIR has no inodes", func(t *testing.T) {
			mount(t, "/srv", "nr_inodes=1") // its root has it
			t.Setenv("TMPDIR", "/srv")
			made(t, "/tmp")
		})
		t.Run("TMPDIR has no space", func(t *testing.T) {
			mount(t, tmp, "size=64k")
			err := os.WriteFile(tmp+"/filler", make([]byte, 1<<20), 0o600)
			require.ErrorIs(t, err, syscall.ENOSPC)
			made(t, tmp) // a socket needs none
		})
		t.Run("no XDG_RUNTIME_DIR", func(t *testing.T) { made(t, tmp) })
		t.Run("XDG_RUNTIME_DIR is missing", func(t *testing.T) {
			t.Setenv("XDG_RUNTIME_DIR", "/no/such/directory")
			made(t, tmp)
		})
		t.Run("XDG_RUNTIME_DIR is there", func(t *testing.T) {
			mount(t, "/srv", "mode=700")
			t.Setenv("XDG_RUNTIME_DIR", "/srv")
			made(t, "/srv")
		})
		t.Run("inodes run out on the way", func(t *testing.T) {
			// The file system's root, and one for each of directory, lock and socket.
			for inodes := 1; inodes <= 4; inodes++ {
				t.Run(itoa(inodes), func(t *testing.T) {
					mount(t, "/dev/shm", "nr_inodes=1")
					mount(t, "/tmp", "nr_inodes="+itoa(inodes))
					t.Setenv("TMPDIR", "/tmp")
					if inodes == 4 {
						made(t, "/tmp")
					} else {
						nowhere(t, syscall.ENOSPC, "/tmp", "no space left on device")
					}
					left, err := os.ReadDir("/tmp")
					require.NoError(t, err)
					assert.Empty(t, left)
				})
			}
		})
		t.Run("a read-only machine with a writable /dev/shm", func(t *testing.T) {
			readOnly(t, "/tmp")
			mount(t, "/dev/shm", "mode=1777")
			t.Setenv("TMPDIR", "/no/such/directory")
			made(t, "/dev/shm")
		})
		t.Run("a read-only machine", func(t *testing.T) {
			readOnly(t, "/tmp")
			readOnly(t, "/dev/shm")
			readOnly(t, "/srv")
			t.Setenv("TMPDIR", "/srv")
			nowhere(t, syscall.EROFS, "temporary directory /srv", "/tmp", "/dev/shm", "read-only file system")
		})
		t.Run("no place at all", func(t *testing.T) {
			readOnly(t, "/tmp")
			mount(t, "/dev/shm", "nr_inodes=1")
			t.Setenv("XDG_RUNTIME_DIR", "/no/such/directory")
			t.Setenv("TMPDIR", long)
			nowhere(t, syscall.ENOSPC, "$XDG_RUNTIME_DIR /no/such/directory", "no such file", "temporary directory "+long, "107", "/tmp", "read-only", "/dev/shm", "no space left")
		})
	})
}

// The place is lost while the Spawner runs: children that are there are not disturbed, and nothing hangs.
func TestSocketLosesItsPlace(t *testing.T) {
	alone(t, syscall.CLONE_NEWNS, func(t *testing.T) {
		t.Run("the disk is full", func(t *testing.T) {
			mount(t, os.TempDir(), "nr_inodes=4")
			s := newSpawner(t, forkspawn.Config{})
			require.ErrorIs(t, os.WriteFile(os.TempDir()+"/filler", nil, 0o600), syscall.ENOSPC)
			works(t, s)
		})
		t.Run("it becomes read-only", func(t *testing.T) {
			mount(t, os.TempDir(), "")
			s, err := forkspawn.New(forkspawn.Config{})
			require.NoError(t, err)
			readOnly(t, os.TempDir())
			works(t, s)
			err = s.Close()
			t.Log(err)
			assert.ErrorIs(t, err, syscall.EROFS)
			assert.ErrorContains(t, err, filepath.Dir(s.Addr().Target))
		})
		t.Run("somebody removes it", func(t *testing.T) {
			before := connections(t)
			s := newSpawner(t, forkspawn.Config{})
			c := spawn(t, s, spawnspec.Spec{Entry: "echo"})
			eventually(t, "the child has both connections", func() bool { return connections(t) == before+3 }) // and there is the listener
			require.NoError(t, os.RemoveAll(filepath.Dir(s.Addr().Target)))
			answers(t, c)
			_, err := s.Spawn(testContext(t), spawnspec.Spec{Name: "lost", Entry: "echo"})
			t.Log(err)
			assert.ErrorIs(t, err, forkspawn.ErrDied)
			assert.ErrorContains(t, err, "dial unix "+s.Addr().Target)
			assert.ErrorContains(t, err, "no such file or directory")
			answers(t, c)
		})
	})
}

// A root that cannot be written to at all, and no place but the one that TMPDIR names.
func TestReadOnlyRoot(t *testing.T) {
	alone(t, syscall.CLONE_NEWNS, func(t *testing.T) {
		mount(t, os.TempDir(), "")
		require.NoError(t, syscall.Mount("/", "/", "", syscall.MS_BIND|syscall.MS_REC, ""))
		require.NoError(t, syscall.Chroot("/"))
		require.NoError(t, syscall.Mount("", "/", "", syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY, ""))
		require.ErrorIs(t, os.WriteFile("/probe", nil, 0o600), syscall.EROFS)
		works(t, newSpawner(t, forkspawn.Config{}))
	})
}

func TestNoProc(t *testing.T) {
	alone(t, syscall.CLONE_NEWNS, func(t *testing.T) {
		leak, err := unix.Open("/etc/hostname", unix.O_RDONLY, 0) // no close-on-exec
		require.NoError(t, err)
		defer unix.Close(leak)
		mount(t, "/proc", "")
		networks(t, func(t *testing.T, listen transport.Addr) {
			_, err := forkspawn.New(forkspawn.Config{Listen: listen, Subreaper: true})
			assert.ErrorContains(t, err, "subreaper: cannot list this process's children: open /proc/self/task: no such file or directory")

			s := newSpawner(t, forkspawn.Config{Listen: listen})
			works(t, s)
			// A child that never saw a /proc has a child of its own.
			c := spawn(t, s, spawnspec.Spec{Entry: "nest"})
			var grandchild int
			require.NoError(t, c.Recv(testContext(t), &grandchild))
			assert.True(t, alive(grandchild))
			result, err := c.Stop(testContext(t))
			require.NoError(t, err)
			assert.Equal(t, forkspawn.EndedAsked, result.By)
			assert.False(t, alive(grandchild))

			_, err = s.SpawnCommand(testContext(t), sh("echo of no use >&2; exit 3"), spawnspec.Spec{Name: "sh"})
			var boot *forkspawn.BootError
			require.ErrorAs(t, err, &boot)
			assert.Equal(t, forkspawn.Exited(3), boot.Status)
			assert.Contains(t, boot.Error(), "of no use")
		})
	})
}

// Without /proc a program's own file is found by its name, and where that says nothing the error does.
func TestOwnFileIsNotFoundWithoutProc(t *testing.T) {
	alone(t, syscall.CLONE_NEWNS, func(t *testing.T) {
		mount(t, "/proc", "")
		os.Args[0] = "no-such-name"
		s := newSpawner(t, forkspawn.Config{})
		_, err := s.Spawn(testContext(t), spawnspec.Spec{Entry: "echo"})
		names(t, err, exec.ErrNotFound, "/proc", "no-such-name", "Command.Path")
		c, err := s.SpawnCommand(testContext(t), forkspawn.Command{Path: os.Getenv(ownFileEnv)}, spawnspec.Spec{Entry: "echo"})
		require.NoError(t, err)
		answers(t, c)
	})
}

func TestNoNullDevice(t *testing.T) {
	alone(t, syscall.CLONE_NEWNS, func(t *testing.T) {
		stdin, err := os.Open(os.DevNull)
		require.NoError(t, err)
		defer stdin.Close()
		mount(t, "/dev", "")
		s := newSpawner(t, forkspawn.Config{})
		_, err = s.Spawn(testContext(t), spawnspec.Spec{Name: "null", Entry: "echo"})
		names(t, err, os.ErrNotExist, "/dev/null", "the null device", "File")
		s = newSpawner(t, forkspawn.Config{Stdin: forkspawn.File(stdin), Stdout: forkspawn.Capture(nil)})
		works(t, s)
	})
}

// As the first process of a container, with nobody who reaps strangers: the library waits for its own
// children alone, and gets their statuses right while orphans come and end as zombies.
func TestFirstProcessOfAContainer(t *testing.T) {
	alone(t, syscall.CLONE_NEWNS|syscall.CLONE_NEWPID, func(t *testing.T) {
		require.Equal(t, 1, os.Getpid())
		require.NoError(t, syscall.Mount("proc", "/proc", "proc", 0, ""))
		networks(t, func(t *testing.T, listen transport.Addr) {
			s := newSpawner(t, forkspawn.Config{Listen: listen})
			works(t, s)
			var wg sync.WaitGroup
			for i := range 12 {
				wg.Go(func() {
					// One orphan is in a session of its own, where no signal of ours comes, and one in the group.
					cmd := sh(`(setsid sleep 0.01 &); (sleep 60 &); exec /proc/$PPID/exe`)
					c, err := s.SpawnCommand(testContext(t), cmd, spawnspec.Spec{Name: "leaver", Entry: "exit", Args: i})
					var boot *forkspawn.BootError
					if errors.As(err, &boot) { // it was very fast
						assert.Equal(t, forkspawn.Exited(i), boot.Status, boot)
						return
					}
					status, err := c.Wait(testContext(t))
					assert.NoError(t, err)
					assert.Equal(t, forkspawn.Exited(i), status)
					_, err = c.Stop(testContext(t))
					assert.NoError(t, err)
				})
			}
			wg.Wait()
			left, err := os.MkdirTemp("", "") // a killed Spawner leaves its directory, when there is none beside it
			require.NoError(t, err)
			defer os.RemoveAll(left)
			env := append(os.Environ(), "TMPDIR="+left)
			c, err := s.SpawnCommand(testContext(t), forkspawn.Command{Env: env}, spawnspec.Spec{Entry: "nest"})
			require.NoError(t, err)
			var grandchild int
			require.NoError(t, c.Recv(testContext(t), &grandchild))
			_, err = c.Kill()
			require.NoError(t, err)
			eventually(t, "the orphan has ended", func() bool { return !running(grandchild) })
			works(t, s)
			require.NoError(t, s.Close())

			// All are zombies now, whose statuses nobody has taken.
			strangers := 0
			for {
				pid, err := syscall.Wait4(-1, nil, 0, nil)
				if err == syscall.EINTR {
					continue
				}
				if err != nil {
					require.ErrorIs(t, err, syscall.ECHILD)
					break
				}
				require.NotZero(t, pid)
				strangers++
			}
			assert.Equal(t, 25, strangers, "two orphans each, and a grandchild")
			names, err := os.ReadDir("/proc")
			require.NoError(t, err)
			for _, n := range names {
				assert.False(t, n.Name() != "1" && strings.Trim(n.Name(), "0123456789") == "", "process %s is left", n.Name())
			}
		})
	})
}

// The kernel gives a user who has very many pages in pipes pipes of two pages.
func TestSmallPipes(t *testing.T) {
	alone(t, 0, func(t *testing.T) {
		needRoot(t)
		become(t, nobody)
		size := func(fd int) int {
			n, err := unix.FcntlInt(uintptr(fd), unix.F_GETPIPE_SZ, 0)
			require.NoError(t, err)
			return n
		}
		for n := 0; ; n++ {
			if n > 5000 {
				t.Skip("there is no fs.pipe-user-pages-soft here")
			}
			var p [2]int
			require.NoError(t, syscall.Pipe2(p[:], syscall.O_CLOEXEC))
			defer syscall.Close(p[0])
			defer syscall.Close(p[1])
			if size(p[0]) <= 8<<10 {
				t.Logf("after %d pipes they have %d bytes", n, size(p[0]))
				break
			}
			unix.FcntlInt(uintptr(p[0]), unix.F_SETPIPE_SZ, 1<<20) // as long as that is allowed
		}
		var out, errs lockedBuffer
		s := newSpawner(t, forkspawn.Config{Stdout: forkspawn.Capture(&out), Stderr: forkspawn.Capture(&errs)})
		c := spawn(t, s, spawnspec.Spec{Entry: "flood"})
		var done string
		require.NoError(t, c.Recv(testContext(t), &done))
		_, err := c.Wait(testContext(t))
		require.NoError(t, err)
		assert.True(t, strings.HasSuffix(c.StderrTail(), "x\nthe last line\n"))
		require.NoError(t, s.Close())
		assert.Equal(t, 160<<16, out.len()+int(out.dropped(t)), "each byte was passed on or is counted as dropped")
	})
}

// A full disk behind a captured stream does the child no harm. When there is room again the stream goes
// on, with a line that says how much is missing.
func TestFullDiskBehindACapturedStream(t *testing.T) {
	alone(t, syscall.CLONE_NEWNS, func(t *testing.T) {
		mount(t, "/srv", "size=64k")
		log, err := os.Create("/srv/log")
		require.NoError(t, err)
		defer log.Close()
		offered := &meter{w: log}
		s := newSpawner(t, forkspawn.Config{Stdout: forkspawn.Capture(offered)})
		c := spawn(t, s, spawnspec.Spec{Entry: "printer"})
		eventually(t, "all was written, or was not", func() bool { return offered.z.Load() == printed })
		require.NoError(t, log.Truncate(0))
		_, err = log.Seek(0, io.SeekStart)
		require.NoError(t, err)
		require.NoError(t, c.Send(testContext(t), "there is room again"))
		status, err := c.Wait(testContext(t))
		require.NoError(t, err)
		assert.True(t, status.Success())
		require.NoError(t, s.Close())
		b, err := os.ReadFile("/srv/log")
		require.NoError(t, err)
		assert.Regexp(t, `^\n\[spawnwire: \d+ bytes lost: write /srv/log: no space left on device\]\none more line\n$`, string(b))
		assert.Contains(t, string(b), itoa(printed-64<<10), "what is missing")
	})
}

// meter counts the z that a writer is offered.
type meter struct {
	w io.Writer
	z atomic.Int64
}

func (m *meter) Write(p []byte) (int, error) {
	n, err := m.w.Write(p)
	m.z.Add(int64(bytes.Count(p, []byte("z"))))
	return n, err
}

// A child in whose view of the file system the socket is not. An abstract name it finds.
func TestChildThatCannotSeeTheSocket(t *testing.T) {
	alone(t, syscall.CLONE_NEWNS, func(t *testing.T) {
		s := newSpawner(t, forkspawn.Config{})
		hidden := fmt.Sprintf("mount -t tmpfs tmpfs '%s' && exec /proc/$PPID/exe", os.TempDir())
		cmd := forkspawn.Command{Path: "unshare", Args: []string{"-m", "sh", "-c", hidden}}
		_, err := s.SpawnCommand(testContext(t), cmd, spawnspec.Spec{Name: "elsewhere", Entry: "echo"})
		var boot *forkspawn.BootError
		require.ErrorAs(t, err, &boot)
		t.Log(err)
		assert.ErrorIs(t, err, forkspawn.ErrDied)
		assert.Equal(t, forkspawn.Exited(forkspawn.ExitFailure), boot.Status)
		for _, words := range []string{"dial unix", s.Addr().Target, "no such file or directory"} {
			assert.Contains(t, err.Error(), words)
		}
		works(t, s)

		s = newSpawner(t, forkspawn.Config{Listen: transport.Addr{Scheme: "uds", Target: "@spawnwire-" + itoa(os.Getpid())}})
		c, err := s.SpawnCommand(testContext(t), cmd, spawnspec.Spec{Name: "elsewhere", Entry: "echo"})
		require.NoError(t, err)
		answers(t, c)
	})
}

func TestChildWithoutProc(t *testing.T) {
	alone(t, syscall.CLONE_NEWNS, func(t *testing.T) {
		networks(t, func(t *testing.T, listen transport.Addr) {
			s := newSpawner(t, forkspawn.Config{Listen: listen})
			cmd := forkspawn.Command{Path: "unshare", Args: []string{"-m", "sh", "-c", `mount -t tmpfs tmpfs /proc && exec "$` + ownFileEnv + `"`}}
			c, err := s.SpawnCommand(testContext(t), cmd, spawnspec.Spec{Name: "blind", Entry: "nest"})
			require.NoError(t, err)
			var grandchild int
			require.NoError(t, c.Recv(testContext(t), &grandchild))
			result, err := c.Stop(testContext(t))
			require.NoError(t, err)
			assert.Equal(t, forkspawn.EndedAsked, result.By)
			assert.False(t, alive(grandchild))
		})
	})
}
