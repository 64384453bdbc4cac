//go:build amd64 || arm64

package forkspawn_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"runtime/trace"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// signEnv is an environment variable of a template, with the path of a file.
// The warm-up, or its goroutine, goes on when the file exists.
const signEnv = "SPAWNWIRE_TEST_SIGN"

func awaitSign() {
	for {
		if _, err := os.Stat(os.Getenv(signEnv)); err == nil {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// busyWork counts the work of the goroutines of the warm-up "busy".
var busyWork [4]atomic.Int64

func init() {
	warmUps := map[string]func() error{
		"exits": func() error {
			os.Exit(7)
			return nil
		},
		"ends its goroutine": func() error {
			go awaitSign() // so that the runtime does not end the process
			runtime.Goexit()
			return nil
		},
		"stops itself": func() error { return syscall.Kill(os.Getpid(), syscall.SIGSTOP) },
		"changes one thread": func() error {
			done := make(chan error)
			go func() {
				runtime.LockOSThread()
				done <- unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
				select {}
			}()
			return <-done
		},
		"waits": func() error {
			fmt.Fprintln(os.Stderr, os.Getpid())
			awaitSign()
			return nil
		},
		"busy": func() error {
			for i := range busyWork {
				go func() {
					var garbage [][]byte
					for n := 0; ; n++ {
						garbage = append(garbage[:len(garbage)%1000], make([]byte, 100))
						if n%1000 == 0 {
							busyWork[i].Add(1)
							time.Sleep(50 * time.Microsecond)
						}
					}
				}()
			}
			return nil
		},
		"leaves a timer": func() error {
			time.AfterFunc(200*time.Millisecond, func() {
				os.WriteFile(os.Getenv(signEnv), nil, 0o600)
			})
			return nil
		},
		"profiles": func() error {
			go func() {
				awaitSign()
				pprof.StopCPUProfile()
			}()
			return pprof.StartCPUProfile(io.Discard)
		},
		"traces": func() error {
			go func() {
				awaitSign()
				trace.Stop()
			}()
			return trace.Start(io.Discard)
		},
		"blocks the signal": func() error {
			blocked := make(chan error)
			go func() {
				runtime.LockOSThread()
				defer runtime.UnlockOSThread()
				set := unix.Sigset_t{Val: [16]uint64{1 << 33}}
				blocked <- unix.PthreadSigmask(unix.SIG_BLOCK, &set, nil)
				for { // waits in this thread only
					if unix.Access(os.Getenv(signEnv), unix.F_OK) == nil {
						break
					}
					syscall.Nanosleep(&syscall.Timespec{Nsec: 1e6}, nil)
				}
				unix.PthreadSigmask(unix.SIG_UNBLOCK, &set, nil)
			}()
			return <-blocked
		},
	}
	for name, f := range warmUps {
		forkspawn.RegisterWarmUp(name, func() error {
			loaded.pid = os.Getpid()
			return f()
		})
	}
	moreEntries["busy template"] = func(ctx context.Context, p *forkspawn.Parent) error {
		for i := range busyWork { // each runs in the child
			for before := busyWork[i].Load(); busyWork[i].Load() < before+3; {
				if ctx.Err() != nil {
					return fmt.Errorf("goroutine %d stands still", i)
				}
				time.Sleep(time.Millisecond)
			}
		}
		runtime.GC()
		return p.Send(ctx, loaded.pid)
	}
}

// After these warm-ups there is no template, although they return no error.
func TestTemplate_WarmUpEndsOrHangs(t *testing.T) {
	needForks(t)
	for name, want := range map[string]string{
		"exits":              "it has ended: exit status 7",
		"ends its goroutine": "warm-up: it called runtime.Goexit",
		"stops itself":       "it is stopped (SIGSTOP)",
		"changes one thread": `has "NoNewPrivs: 1", and the first thread has "NoNewPrivs: 0"`,
		"hangs":              "it has not warmed up within 1s (Config.WarmUpTimeout)",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := forking(t, func(cfg *forkspawn.Config) {
				if cfg.WarmUp = name; name == "hangs" {
					cfg.WarmUpTimeout = time.Second
				}
			})
			last := 0
			for range 2 {
				boot := spawnError(t, testkit.Context(t), s, forkspawn.Command{},
					spawnspec.Spec{Name: "cold", Entry: "warm"})
				var template *forkspawn.ExitError
				require.ErrorAs(t, boot, &template)
				assert.Contains(t, boot.Error(), want)
				assert.NotEqual(t, last, template.PID, "another one")
				assert.False(t, alive(template.PID))
				last = template.PID
			}
		})
	}
}

// The template is ended while Spawns wait for it.
func TestTemplate_EndsDuringWarmUp(t *testing.T) {
	testkit.Long(t)
	needForks(t)
	for name, test := range map[string]struct {
		end  func(s *forkspawn.Spawner, pid int) error
		want string
	}{
		"killed": {func(_ *forkspawn.Spawner, pid int) error {
			return syscall.Kill(pid, syscall.SIGKILL)
		}, "it has ended: signal: killed"},
		"stopped": {func(_ *forkspawn.Spawner, pid int) error {
			return syscall.Kill(pid, syscall.SIGSTOP)
		}, "it is stopped (SIGSTOP)"},
		"closed": {func(s *forkspawn.Spawner, _ int) error { return s.Close() }, "spawner closed"},
	} {
		t.Run(name, func(t *testing.T) {
			sign := filepath.Join(t.TempDir(), "sign")
			t.Setenv(signEnv, sign)
			said, w := io.Pipe()
			defer w.Close()
			s := forking(t, func(cfg *forkspawn.Config) {
				cfg.WarmUp, cfg.Stderr = "waits", forkspawn.Capture(w)
			})
			errs := make(chan error, 3)
			var begun sync.WaitGroup
			for range cap(errs) {
				begun.Add(1)
				go func() {
					begun.Done()
					_, err := s.Spawn(testkit.Context(t), spawnspec.Spec{Entry: "warm"})
					errs <- err
				}()
			}
			var pid int
			_, err := fmt.Fscanln(said, &pid)
			require.NoError(t, err)
			go io.Copy(io.Discard, said)
			begun.Wait()
			require.NoError(t, test.end(s, pid))
			for range cap(errs) {
				err := <-errs
				assert.ErrorContains(t, err, test.want)
				var template *forkspawn.ExitError
				assert.Equal(t, name != "closed", errors.As(err, &template))
			}
			assert.False(t, alive(pid))
			if name == "closed" {
				return
			}
			require.NoError(t, os.WriteFile(sign, nil, 0o600))
			_, r := spawnWarm(t, s)
			assert.NotEqual(t, pid, r.Template)
		})
	}
}

// Some states of a program make a fork impossible. The error names the remedy,
// and the same template forks after it.
func TestTemplate_RefusesForNow(t *testing.T) {
	testkit.Long(t)
	needForks(t)
	for name, want := range map[string]string{
		"profiles":          `cannot fork without exec: a CPU profile is running; stop it before \(pprof.StopCPUProfile\)`,
		"traces":            `cannot fork without exec: an execution trace is running; stop it before \(trace.Stop\)`,
		"blocks the signal": `cannot fork without exec: thread \d+ blocks signal 34; unblock it there \(rt_sigprocmask\)`,
	} {
		t.Run(name, func(t *testing.T) {
			sign := filepath.Join(t.TempDir(), "sign")
			t.Setenv(signEnv, sign)
			s := forking(t, func(cfg *forkspawn.Config) { cfg.WarmUp = name })
			var template *forkspawn.ExitError
			for range 2 {
				boot := spawnError(t, testkit.Context(t), s, forkspawn.Command{},
					spawnspec.Spec{Name: "refused", Entry: "warm"})
				require.ErrorAs(t, boot, &template)
				assert.Regexp(t, want, boot.Error())
				assert.False(t, template.Status.Known())
				assert.True(t, alive(template.PID))
			}
			require.NoError(t, os.WriteFile(sign, nil, 0o600))
			var c *forkspawn.Child
			testkit.Eventually(t, "it can fork", func() bool {
				var err error
				c, err = s.Spawn(testkit.Context(t), spawnspec.Spec{Entry: "warm"})
				return err == nil
			})
			var r warmReport
			require.NoError(t, c.Recv(testkit.Context(t), &r))
			assert.Equal(t, template.PID, r.Template, "the same one")
		})
	}
}

// The warm-up leaves goroutines that allocate and sleep for ever. Each child
// has them.
func TestTemplate_WithGoroutines(t *testing.T) {
	testkit.Long(t)
	needForks(t)
	s := forking(t, func(cfg *forkspawn.Config) { cfg.WarmUp = "busy" })
	templates := map[int]bool{}
	for range 20 {
		c := spawn(t, s, spawnspec.Spec{Entry: "busy template"})
		var pid int
		require.NoError(t, c.Recv(testkit.Context(t), &pid))
		templates[pid] = true
		_, err := c.Kill()
		require.NoError(t, err)
	}
	assert.Len(t, templates, 1)
}

// The template has a timer, and gets signals without an effect. It forks before
// and after them, and the timer runs.
func TestTemplate_ArmedHandlesSignalsAndTimers(t *testing.T) {
	needForks(t)
	sign := filepath.Join(t.TempDir(), "sign")
	t.Setenv(signEnv, sign)
	s := forking(t, func(cfg *forkspawn.Config) { cfg.WarmUp = "leaves a timer" })
	_, before := spawnWarm(t, s)
	require.NotZero(t, before.Template)
	testkit.Eventually(t, "the timer has run", func() bool {
		require.NoError(t, syscall.Kill(before.Template, syscall.SIGWINCH))
		_, err := os.Stat(sign)
		return err == nil
	})
	for _, sig := range []syscall.Signal{syscall.SIGURG, syscall.SIGCONT,
		syscall.SIGWINCH, syscall.Signal(34)} {
		require.NoError(t, syscall.Kill(before.Template, sig))
		_, after := spawnWarm(t, s)
		assert.Equal(t, before.Template, after.Template, "%v", sig)
	}
}

// Spares are taken and forked again while templates are killed.
func TestTemplate_KilledWhileSparesAreForked(t *testing.T) {
	testkit.Long(t)
	needForks(t)
	s := forking(t, func(cfg *forkspawn.Config) { cfg.Spares = 8 })
	require.NoError(t, s.AwaitSpares(testkit.Context(t)))
	for range 5 {
		_, r := spawnWarm(t, s)
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				c, err := s.Spawn(testkit.Context(t), spawnspec.Spec{Entry: "echo"})
				if err != nil {
					var template *forkspawn.ExitError
					assert.ErrorAs(t, err, &template)
					return
				}
				result, err := c.Stop(context.Background())
				assert.NoError(t, err)
				assert.Equal(t, forkspawn.Asked, result.By)
			})
		}
		syscall.Kill(r.Template, syscall.SIGKILL)
		wg.Wait()
		testkit.Eventually(t, "all spares are there again", func() bool {
			ctx, cancel := context.WithTimeout(testkit.Context(t), 5*time.Second)
			defer cancel()
			return s.AwaitSpares(ctx) == nil
		})
		_, after := spawnWarm(t, s)
		assert.NotZero(t, after.Template)
	}
}

func TestTemplate_LinesHaveItsName(t *testing.T) {
	needForks(t)
	lines := make(chan string, 1000)
	s := forking(t, func(cfg *forkspawn.Config) {
		cfg.WarmUp = "panics"
		cfg.Stderr = forkspawn.Lines(func(e forkspawn.ChildEvent, line []byte) {
			lines <- e.Name + ": " + string(line)
		})
	})
	require.Error(t, s.AwaitTemplate(testkit.Context(t)))
	assert.Contains(t, <-lines, "template: panic: at the table")
}
