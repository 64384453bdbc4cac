//go:build unix

package spawntest_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
)

// leakEnv makes the test binary, when a test runs it, one whose only test leaks something.
const leakEnv = "SPAWNTEST_LEAK"

func TestMain(m *testing.M) {
	switch os.Getenv(leakEnv) {
	case "", "nothing", "failure":
	default:
		spawntest.SetPatience(10 * time.Millisecond)
	}
	spawntest.Main(m)
}

// Children of the tests.
var (
	echo = spawntest.Func(func(ctx context.Context, p *forkspawn.Parent) error {
		for {
			var v any
			if err := p.Recv(ctx, &v); err != nil {
				return err
			}
			if err := p.Send(ctx, v); err != nil {
				return err
			}
		}
	})
	args = spawntest.Func(func(ctx context.Context, p *forkspawn.Parent) error {
		var v any
		if err := p.Spec.DecodeArgs(&v); err != nil {
			return err
		}
		return p.Send(ctx, []any{p.Spec.Name, p.Channel().RemoteAddr().Network(), v})
	})
	complain = spawntest.Func(func(ctx context.Context, p *forkspawn.Parent) error {
		fmt.Fprintln(os.Stderr, "the moon is locked")
		if err := p.Send(ctx, "complained"); err != nil {
			return err
		}
		<-ctx.Done()
		return ctx.Err()
	})
	// leave starts a program that no process group and no parent leads back to.
	leave = spawntest.Func(func(ctx context.Context, p *forkspawn.Parent) error {
		cmd := exec.Command("sleep", "60")
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := cmd.Start(); err != nil {
			return err
		}
		return p.Send(ctx, cmd.Process.Pid)
	})
	twin, sibling = spawntest.Func(one), spawntest.Func(two)
)

func one(ctx context.Context, p *forkspawn.Parent) error { return p.Send(ctx, 1) }
func two(ctx context.Context, p *forkspawn.Parent) error { return p.Send(ctx, 2) }

// recorder is a test's T that keeps to itself what a test is told.
type recorder struct {
	testing.TB
	failed   bool
	said     strings.Builder
	cleanups []func()
}

func (r *recorder) Helper()                 { r.TB.Helper() }
func (r *recorder) Failed() bool            { return r.failed }
func (r *recorder) Cleanup(f func())        { r.cleanups = append(r.cleanups, f) }
func (r *recorder) Setenv(_, _ string)      {}
func (r *recorder) Logf(f string, a ...any) { fmt.Fprintf(&r.said, f+"\n", a...) }

func (r *recorder) Errorf(f string, a ...any) {
	r.failed = true
	r.Logf(f, a...)
}

func (r *recorder) Fatalf(f string, a ...any) {
	r.Errorf(f, a...)
	runtime.Goexit()
}

// record runs a test to its end, with what it has registered for that, and returns what it was told.
func record(t testing.TB, test func(testing.TB)) *recorder {
	t.Helper()
	r := &recorder{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			for len(r.cleanups) > 0 {
				last := len(r.cleanups) - 1
				f := r.cleanups[last]
				r.cleanups = r.cleanups[:last]
				f()
			}
		}()
		test(r)
	}()
	<-done
	return r
}

// bound is generous: it is there to find hangs.
const bound = time.Minute

// runMain runs the test binary with one test that leaks, and returns how it ended and what it said.
func runMain(t *testing.T, leak string) (code int, said string) {
	t.Helper()
	place, err := os.MkdirTemp("", "m-") // t.TempDir is too long
	require.NoError(t, err)
	self, err := os.Executable()
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	defer cancel()
	cmd := exec.CommandContext(ctx, self, "-test.run=^TestThatLeaks$")
	cmd.Env = append(os.Environ(), leakEnv+"="+leak, "TMPDIR="+place)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		require.NoError(t, err)
	}
	assert.NoError(t, os.Remove(place), "the tests' directory is gone")
	return cmd.ProcessState.ExitCode(), string(out)
}

// TestThatLeaks is the only test of the processes that runMain starts.
func TestThatLeaks(t *testing.T) {
	switch leak := os.Getenv(leakEnv); leak {
	case "":
		t.Skip("leaks on purpose, when another test runs it")
	case "nothing":
		child := spawntest.Spawn(t, echo)
		require.NoError(t, child.Send(t.Context(), "hello"))
	case "failure":
		t.Fail()
	default:
		makeLeak(t, leak)
	}
}

func TestMainFailsWhenSomethingIsLeft(t *testing.T) {
	spawntest.NoLeaks(t)
	for leak, said := range map[string]string{
		"goroutine": "found unexpected goroutines",
		"socket":    "  socket /",
		"directory": "  directory /",
	} {
		t.Run(leak, func(t *testing.T) {
			code, out := runMain(t, leak)
			assert.Equal(t, 1, code)
			assert.Contains(t, out, "PASS\nspawntest: left after all tests:\n")
			assert.Contains(t, out, said)
		})
	}
	t.Run("nothing", func(t *testing.T) {
		code, out := runMain(t, "nothing")
		assert.Zero(t, code, out)
		assert.NotContains(t, out, "left")
	})
	t.Run("a failure stays one", func(t *testing.T) {
		code, out := runMain(t, "failure")
		assert.Equal(t, 1, code)
		assert.NotContains(t, out, "left")
	})
}

func TestMainPreparesTheEnvironment(t *testing.T) {
	assert.Equal(t, os.Getenv("TMPDIR"), os.Getenv("XDG_RUNTIME_DIR"))
	s := spawntest.NewSpawner(t, forkspawn.Config{})
	assert.True(t, strings.HasPrefix(s.Addr().Target, os.Getenv("TMPDIR")+"/spawnwire-"), s.Addr())

	assert.Contains(t, os.Getenv("GORACE"), "atexit_sleep_ms")
	assert.Equal(t, "atexit_sleep_ms=0", spawntest.RaceOptions(""))
	assert.Equal(t, "halt_on_error=1 atexit_sleep_ms=0", spawntest.RaceOptions("halt_on_error=1"))
	assert.Equal(t, "atexit_sleep_ms=5", spawntest.RaceOptions("atexit_sleep_ms=5"))
}

func TestPathsFitIntoSocketsWhateverTMPDIRIs(t *testing.T) {
	long := t.TempDir() + "/" + strings.Repeat("x", 100)
	require.NoError(t, os.Mkdir(long, 0o700))
	t.Setenv("TMPDIR", long)
	dir, err := spawntest.MakeDir()
	require.NoError(t, err)
	defer os.Remove(dir)
	assert.True(t, strings.HasPrefix(dir, "/tmp/"), dir)
}
