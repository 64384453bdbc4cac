//go:build unix

package spawntest_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
)

// leakEnv selects the leak of TestLeaks_OnPurpose, in a test binary started by
// another test.
const leakEnv = "SPAWNTEST_LEAK"

func TestMain(m *testing.M) {
	switch os.Getenv(leakEnv) {
	case "", "nothing", "failure":
	default:
		spawntest.SetPatience(10 * time.Millisecond)
	}
	spawntest.Main(m)
}

// Entries that the tests run in children.
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
		if err := p.Spec().DecodeArgs(&v); err != nil {
			return err
		}
		return p.Send(ctx, []any{p.Spec().Name, p.Channel().NetConn().RemoteAddr().Network(), v})
	})
	// complain writes to stderr and then waits until it is stopped.
	complain = spawntest.Func(func(ctx context.Context, p *forkspawn.Parent) error {
		fmt.Fprintln(os.Stderr, "the moon is locked")
		if err := p.Send(ctx, "complained"); err != nil {
			return err
		}
		<-ctx.Done()
		return ctx.Err()
	})
	// leave starts a program in a session of its own and exits without waiting
	// for it.
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

// recorder is a testing.TB. It records failures and log lines and does not
// report them. It implements only the methods that the tests need.
type recorder struct {
	testing.TB
	ctx      context.Context
	cleanups []func()
	failed   bool

	mu    sync.Mutex // guards lines, because children's stderr is written concurrently
	lines strings.Builder
}

func (r *recorder) Helper()                  {}
func (r *recorder) Context() context.Context { return r.ctx }
func (r *recorder) Cleanup(f func())         { r.cleanups = append(r.cleanups, f) }
func (r *recorder) Setenv(_, _ string)       {}
func (r *recorder) Output() io.Writer        { return r }

func (r *recorder) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.lines.Write(p)
}

func (r *recorder) log() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.lines.String()
}

func (r *recorder) Errorf(f string, a ...any) {
	r.failed = true
	fmt.Fprintf(r, f+"\n", a...)
}

func (r *recorder) Fatalf(f string, a ...any) {
	r.Errorf(f, a...)
	runtime.Goexit()
}

func (r *recorder) FailNow() {
	r.failed = true
	runtime.Goexit()
}

// record runs a test and its cleanups with a recorder, and returns the recorder.
func record(test func(testing.TB)) *recorder {
	ctx, cancel := context.WithCancel(context.Background())
	r := &recorder{ctx: ctx}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			cancel()
			for _, f := range slices.Backward(r.cleanups) {
				f()
			}
		}()
		test(r)
	}()
	<-done
	return r
}

// bound is generous because it only has to find hangs.
const bound = time.Minute

// runMain runs TestLeaks_OnPurpose in another process, and returns its exit code
// and output.
func runMain(t *testing.T, leak string) (code int, output string) {
	t.Helper()
	place, err := os.MkdirTemp("", "m-") // t.TempDir is too long for the path of a socket
	require.NoError(t, err)
	self, err := os.Executable()
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	defer cancel()
	cmd := exec.CommandContext(ctx, self, "-test.run=^TestLeaks_OnPurpose$")
	cmd.Env = append(os.Environ(), leakEnv+"="+leak, "TMPDIR="+place)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		require.NoError(t, err)
	}
	assert.NoError(t, os.Remove(place), "the tests' directory is gone")
	return cmd.ProcessState.ExitCode(), string(out)
}

// TestLeaks_OnPurpose is the only test that runMain runs.
func TestLeaks_OnPurpose(t *testing.T) {
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

func TestMain_FailsWhenSomethingIsLeft(t *testing.T) {
	spawntest.NoLeaks(t)
	for leak, want := range map[string]string{
		"goroutine": "found unexpected goroutines",
		"socket":    "  socket /",
		"directory": "  directory /",
	} {
		t.Run(leak, func(t *testing.T) {
			code, out := runMain(t, leak)
			assert.Equal(t, 1, code)
			assert.Contains(t, out, "PASS\nspawntest: left after all tests:\n")
			assert.Contains(t, out, want)
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

func TestMain_PreparesEnvironment(t *testing.T) {
	assert.Equal(t, os.Getenv("TMPDIR"), os.Getenv("XDG_RUNTIME_DIR"))
	s := spawntest.NewSpawner(t, forkspawn.Config{})
	assert.True(t, strings.HasPrefix(s.Addr().Target, os.Getenv("TMPDIR")+"/spawnwire-"), s.Addr())

	assert.Contains(t, os.Getenv("GORACE"), "atexit_sleep_ms")
	assert.Equal(t, "atexit_sleep_ms=0", spawntest.RaceOptions(""))
	assert.Equal(t, "halt_on_error=1 atexit_sleep_ms=0", spawntest.RaceOptions("halt_on_error=1"))
	assert.Equal(t, "atexit_sleep_ms=5", spawntest.RaceOptions("atexit_sleep_ms=5"))
}

func TestMain_ShortensLongTMPDIR(t *testing.T) {
	long := t.TempDir() + "/" + strings.Repeat("x", 100)
	require.NoError(t, os.Mkdir(long, 0o700))
	t.Setenv("TMPDIR", long)
	dir, err := spawntest.MakeDir()
	require.NoError(t, err)
	defer os.Remove(dir)
	assert.True(t, strings.HasPrefix(dir, "/tmp/"), dir)
}
