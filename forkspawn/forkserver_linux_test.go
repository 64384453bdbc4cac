//go:build amd64 || arm64

package forkspawn_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// loaded is the memory of the warm-up of these tests.
var loaded struct {
	pid   int // of the template
	table []string
	forks int // calls of AfterFork in this process
}

func init() {
	forkspawn.RegisterWarmUp("table", func() error {
		loaded.pid = os.Getpid()
		for i := range 1000 {
			loaded.table = append(loaded.table, strconv.Itoa(i))
		}
		return nil
	})
	forkspawn.RegisterWarmUp("fails", func() error {
		fmt.Fprintln(os.Stderr, "looking for the table")
		return errors.New("no table today")
	})
	forkspawn.RegisterWarmUp("panics", func() error { panic("at the table") })
	forkspawn.RegisterWarmUp("kills", func() error {
		return syscall.Kill(os.Getpid(), syscall.SIGKILL)
	})
	forkspawn.RegisterWarmUp("hangs", func() error {
		time.Sleep(time.Hour) // not select {}, after which the runtime would end the process
		return nil
	})
	forkspawn.AfterFork(func() error {
		loaded.forks++
		switch os.Getenv("AFTER_FORK") {
		case "":
		case "hang":
			time.Sleep(time.Hour)
		default:
			return errors.New(os.Getenv("AFTER_FORK"))
		}
		return nil
	})
	moreEntries["nested"] = func(ctx context.Context, p *forkspawn.Parent) error {
		s, err := forkspawn.New(forkspawn.Config{
			Method: forkspawn.MethodForkserver, WarmUp: "table", BootTimeout: bound})
		if err != nil {
			return err
		}
		defer s.Close()
		c, err := s.Spawn(ctx, spawnspec.Spec{Entry: "warm"})
		if err != nil {
			return err
		}
		var leaf map[string]any
		if err := c.Recv(ctx, &leaf); err != nil {
			return err
		}
		if err := p.Send(ctx, leaf); err != nil {
			return err
		}
		<-ctx.Done()
		return ctx.Err()
	}
	moreEntries["warm"] = func(ctx context.Context, p *forkspawn.Parent) error {
		dir, err := os.Getwd()
		if err != nil {
			return err
		}
		comm, _ := os.ReadFile("/proc/self/comm")
		if err := p.Send(ctx, map[string]any{
			"template": loaded.pid, "table": len(loaded.table), "forks": loaded.forks,
			"pid": os.Getpid(), "ppid": os.Getppid(),
			"group": syscall.Getpgrp(), "dir": dir, "comm": strings.TrimSpace(string(comm)),
			"method": p.Spec().Method,
			"env":    os.Getenv("GREETING"), "path": os.Getenv("PATH"), "vars": len(os.Environ()),
		}); err != nil {
			return err
		}
		<-ctx.Done()
		return ctx.Err()
	}
}

type warmReport struct {
	Template, Table, Forks, PID, PPID, Group, Vars int
	Dir, Comm, Method, Env, Path                   string
}

func forking(t *testing.T, change ...func(*forkspawn.Config)) *forkspawn.Spawner {
	t.Helper()
	cfg := forkspawn.Config{Method: forkspawn.MethodForkserver, WarmUp: "table"}
	for _, f := range change {
		f(&cfg)
	}
	return newSpawner(t, cfg)
}

// spawnWarm returns a child and its report.
func spawnWarm(t *testing.T, s *forkspawn.Spawner) (*forkspawn.Child, warmReport) {
	t.Helper()
	c := spawn(t, s, spawnspec.Spec{Entry: "warm"})
	var r warmReport
	require.NoError(t, c.Recv(testkit.Context(t), &r))
	return c, r
}

func TestForkserver_RefusalNamesTheRemedy(t *testing.T) {
	err := forkspawn.CheckForkserver(testkit.Context(t))
	if !cgoEnabled {
		require.NoError(t, err)
		return
	}
	var refused *forkspawn.ConfigError
	require.ErrorAs(t, err, &refused)
	assert.ErrorIs(t, err, forkspawn.ErrMethodUnavailable)
	assert.Contains(t, refused.Reason, "CGO_ENABLED=0")
	assert.Equal(t, raceDetector, strings.Contains(refused.Reason, "-race"), refused.Reason)
	assert.Equal(t, err, forkspawn.CheckForkserver(testkit.Context(t)))

	s := newSpawner(t, forkspawn.Config{Method: forkspawn.MethodForkserver})
	boot := spawnError(t, testkit.Context(t), s, forkspawn.Command{},
		spawnspec.Spec{Name: "refused", Entry: "echo"})
	assert.ErrorIs(t, boot, forkspawn.ErrMethodUnavailable)
	assert.Contains(t, boot.Error(), "CGO_ENABLED=0")
}

func TestForkserver_GoVersionMustHavePassedTheSoak(t *testing.T) {
	for version, known := range map[string]bool{
		"go1.26": true, "go1.26.8": true, "go1.26rc1": true, "go1.26.8 X:nodwarf5": true,
		"go1.25.9": false, "go1.99": false, "devel go1.99-abcdef Mon": false, "custom": false,
	} {
		restore := forkspawn.SetGoVersion(version)
		s := newSpawner(t, forkspawn.Config{Method: forkspawn.MethodForkserver})
		err := s.AwaitTemplate(testkit.Context(t))
		restore()
		if known && !cgoEnabled {
			assert.NoError(t, err, version)
			continue
		}
		require.ErrorIs(t, err, forkspawn.ErrMethodUnavailable, version)
		assert.Equal(t, !known, strings.Contains(err.Error(), version), err)
		assert.Equal(t, !known, strings.Contains(err.Error(), "go1.26"), err)
	}
}

func TestForkserver_AnyGoVersionIsAnOption(t *testing.T) {
	needForks(t)
	defer forkspawn.SetGoVersion("go1.99")()
	log := newLines()
	s := forking(t, func(cfg *forkspawn.Config) {
		cfg.Logger, cfg.ForkserverAnyGo = slog.New(log), true
	})
	for range 2 {
		_, r := spawnWarm(t, s)
		assert.Equal(t, "forkserver", r.Method)
	}
	assert.Equal(t, 1, log.of("forkspawn: children are forked in spite of the Go version"))
}

func TestForkserver_FallsBackWithOneLine(t *testing.T) {
	if !cgoEnabled {
		t.Skip("built without cgo")
	}
	var log strings.Builder
	var mu sync.Mutex
	s := newSpawner(t, forkspawn.Config{
		Method: forkspawn.MethodForkserver, ForkserverFallback: true,
		Logger: slog.New(slog.NewTextHandler(lockedWriter{&mu, &log}, nil)),
	})
	for range 2 {
		_, r := spawnWarm(t, s)
		assert.Equal(t, "exec", r.Method)
		assert.Zero(t, r.Forks)
	}
	mu.Lock()
	defer mu.Unlock()
	assert.Equal(t, 1, strings.Count(log.String(), "cannot be forked"), log.String())
}

type lockedWriter struct {
	mu *sync.Mutex
	w  *strings.Builder
}

func (l lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

func TestForked_SharesTheWarmUpOnly(t *testing.T) {
	needForks(t)
	t.Setenv("GREETING", "hello")
	s := forking(t)
	require.NoError(t, s.AwaitTemplate(testkit.Context(t)))
	t.Setenv("GREETING", "good day") // after the template's start
	t.Chdir("/")
	_, first := spawnWarm(t, s)
	assert.Equal(t, 1000, first.Table)
	assert.Equal(t, 1, first.Forks, "calls of AfterFork")
	assert.Equal(t, os.Getpid(), first.PPID)
	assert.Equal(t, first.PID, first.Group)
	assert.Equal(t, "good day", first.Env)
	assert.Equal(t, os.Getenv("PATH"), first.Path)
	assert.Equal(t, "/", first.Dir)
	assert.Equal(t, "forkserver", first.Method)
	assert.Equal(t, filepath.Base(os.Args[0])[:min(15, len(filepath.Base(os.Args[0])))], first.Comm)

	dir := t.TempDir()
	cmd := forkspawn.Command{Env: []string{"GREETING=good night"}}
	c, err := s.Spawn(testkit.Context(t), spawnspec.Spec{Entry: "warm", Dir: dir},
		forkspawn.WithCommand(cmd))
	require.NoError(t, err)
	var second warmReport
	require.NoError(t, c.Recv(testkit.Context(t), &second))
	t.Logf("%+v", c.Boot())
	assert.Equal(t, first.Template, second.Template)
	assert.Equal(t, 1, second.Forks)
	assert.Equal(t, dir, second.Dir)
	assert.Equal(t, "good night", second.Env)
	assert.Equal(t, 1, second.Vars)

	c, err = s.Spawn(testkit.Context(t), spawnspec.Spec{Entry: "warm"},
		forkspawn.WithCommand(forkspawn.Command{Args: []string{"other"}}))
	require.NoError(t, err)
	var executed warmReport
	require.NoError(t, c.Recv(testkit.Context(t), &executed))
	assert.Zero(t, executed.Template)
	assert.Equal(t, "exec", executed.Method)
}

func TestForked_MissingDirectory(t *testing.T) {
	needForks(t)
	s := forking(t)
	boot := spawnError(t, testkit.Context(t), s, forkspawn.Command{},
		spawnspec.Spec{Name: "nowhere", Entry: "warm", Dir: "/no/such/place"})
	assert.ErrorIs(t, boot, os.ErrNotExist)
	assert.Contains(t, boot.Error(), "chdir /no/such/place")
	spawnWarm(t, s)
}

func TestForked_AfterForkFails(t *testing.T) {
	needForks(t)
	s := forking(t)
	cmd := forkspawn.Command{Env: []string{"AFTER_FORK=cannot reopen"}}
	boot := spawnError(t, testkit.Context(t), s, cmd,
		spawnspec.Spec{Name: "unlucky", Entry: "warm"})
	assert.Equal(t, 1, boot.Status.Code())
	assert.Contains(t, boot.Stderr, "cannot reopen")
}

func TestTemplate_WarmUpFails(t *testing.T) {
	needForks(t)
	for name, want := range map[string]struct{ text, stderr string }{
		"fails":  {"warm-up: no table today", "looking for the table"},
		"panics": {"exit status 2", "panic: at the table"},
		"kills":  {"killed", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := forking(t, func(cfg *forkspawn.Config) { cfg.WarmUp = name })
			for range 2 {
				boot := spawnError(t, testkit.Context(t), s, forkspawn.Command{},
					spawnspec.Spec{Name: "cold", Entry: "warm"})
				var template *forkspawn.ExitError
				require.ErrorAs(t, boot, &template)
				assert.Contains(t, boot.Error(), want.text)
				assert.Contains(t, template.Stderr, want.stderr)
				assert.False(t, alive(template.PID))
			}
		})
	}
}

func TestTemplate_UnknownWarmUp(t *testing.T) {
	_, err := forkspawn.New(
		forkspawn.Config{Method: forkspawn.MethodForkserver, WarmUp: "elsewhere"})
	var wrong *forkspawn.ConfigError
	require.ErrorAs(t, err, &wrong)
	assert.Equal(t, "WarmUp", wrong.Field)
	assert.Contains(t, err.Error(), `no warm-up "elsewhere"; this program has: `)
}

func TestTemplate_WarmUpOutlastsBootTimeout(t *testing.T) {
	needForks(t)
	s := forking(t, func(cfg *forkspawn.Config) {
		cfg.WarmUp, cfg.BootTimeout = "hangs", 100*time.Millisecond
	})
	boot := spawnError(t, testkit.Context(t), s, forkspawn.Command{},
		spawnspec.Spec{Name: "cold", Entry: "warm"})
	assert.ErrorIs(t, boot, forkspawn.ErrBootTimeout)
	assert.Contains(t, boot.Error(), "the template is not ready")
}

func TestTemplate_IsReplacedAfterItsEnd(t *testing.T) {
	needForks(t)
	log := newLines()
	s := forking(t, func(cfg *forkspawn.Config) { cfg.Logger = slog.New(log) })
	signals := []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM, syscall.SIGSTOP, syscall.SIGTSTP}
	for _, sig := range signals {
		child, before := spawnWarm(t, s)
		awaitArmed(t, before.Template)
		require.NoError(t, syscall.Kill(before.Template, sig))
		testkit.Eventually(t, "the template's end, or stop", func() bool {
			return allStopped(before.Template)
		})
		_, after := spawnWarm(t, s)
		assert.NotEqual(t, before.Template, after.Template, "%v", sig)
		testkit.Eventually(t, "the old template is reaped", func() bool {
			return !alive(before.Template)
		})
		result, err := child.Stop(testkit.Context(t))
		require.NoError(t, err)
		assert.Equal(t, forkspawn.Asked, result.By)
	}
	assert.Equal(t, len(signals), log.of("forkspawn: another template is started"))
}

func TestTemplate_EndsWithItsSpawner(t *testing.T) {
	needForks(t)
	s := forking(t)
	_, r := spawnWarm(t, s)
	require.NoError(t, s.Close())
	assert.False(t, alive(r.Template))
	assert.ErrorIs(t, s.AwaitTemplate(testkit.Context(t)), forkspawn.ErrSpawnerClosed)
}

// The test kills a forked child with a template and a child of its own.
func TestTemplate_EndsWithItsSpawnersProcess(t *testing.T) {
	needForks(t)
	s := forking(t)
	c := spawn(t, s, spawnspec.Spec{Entry: "nested"})
	var leaf warmReport
	require.NoError(t, c.Recv(testkit.Context(t), &leaf))
	assert.Equal(t, c.PID(), leaf.PPID)
	assert.NotZero(t, leaf.Template)
	_, err := c.Kill()
	require.NoError(t, err)
	testkit.Eventually(t, "they have ended", func() bool {
		return !alive(leaf.Template) && !alive(leaf.PID)
	})
}

func TestForked_BootFailuresAreExact(t *testing.T) {
	needForks(t)
	s := forking(t)
	require.NoError(t, s.AwaitTemplate(testkit.Context(t)))
	hasty := forking(t, func(cfg *forkspawn.Config) { cfg.BootTimeout = 3 * time.Second })
	require.NoError(t, hasty.AwaitTemplate(testkit.Context(t)))
	before := spawntest.TakeSnapshot(t)
	boot := spawnError(t, testkit.Context(t), s, forkspawn.Command{},
		spawnspec.Spec{Name: "unknown", Entry: "nope"})
	assert.ErrorIs(t, boot, handshake.ErrUnknownEntry)
	assert.Equal(t, forkspawn.ExitedStatus(1), boot.Status)
	cmd := forkspawn.Command{Env: []string{"AFTER_FORK=hang"}}
	boot = spawnError(t, testkit.Context(t), hasty, cmd,
		spawnspec.Spec{Name: "mute", Entry: "warm"})
	assert.ErrorIs(t, boot, forkspawn.ErrBootTimeout)
	assert.Equal(t, handshake.PhaseConnect, boot.Phase)
	ctx, cancel := context.WithCancel(testkit.Context(t))
	cancel()
	boot = spawnError(t, ctx, s, forkspawn.Command{}, spawnspec.Spec{Name: "late", Entry: "warm"})
	assert.ErrorIs(t, boot, context.Canceled)
	assert.Empty(t, before.Leaks())
}

// Each Spawn returns a child or an exact error, and nothing is left. TestMain
// checks that too.
func TestTemplate_KilledAtAnyMoment(t *testing.T) {
	testkit.Long(t)
	needForks(t)
	s := forking(t)
	failed := 0
	for i := range 8 {
		_, r := spawnWarm(t, s)
		var wg sync.WaitGroup
		var mu sync.Mutex
		for range 3 {
			wg.Go(func() {
				c, err := s.Spawn(testkit.Context(t), spawnspec.Spec{Entry: "echo"})
				if err == nil {
					_, err = c.Stop(context.Background())
					assert.NoError(t, err)
					return
				}
				var boot *forkspawn.BootError
				var template *forkspawn.ExitError
				assert.ErrorAs(t, err, &boot)
				assert.ErrorAs(t, err, &template)
				mu.Lock()
				failed++
				mu.Unlock()
			})
		}
		time.Sleep(time.Duration(i) * 300 * time.Microsecond)
		syscall.Kill(r.Template, []syscall.Signal{syscall.SIGKILL, syscall.SIGSTOP}[i%2])
		wg.Wait()
		for _, c := range s.Children() {
			c.Kill()
		}
	}
	t.Logf("%d of 24 Spawns failed", failed)
}
