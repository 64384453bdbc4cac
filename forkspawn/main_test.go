//go:build unix

package forkspawn_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
)

// roleEnv makes the test binary a program of its own, which the tests start as a child that does not
// use Init; see roles_test.go.
const roleEnv = "SPAWNWIRE_TEST_ROLE"

// methodEnv has the start method of all children whose test does not choose one; see forkserver_linux_amd64_test.go.
const methodEnv = "SPAWNWIRE_TEST_METHOD"

func TestMain(m *testing.M) {
	if role := os.Getenv(roleEnv); role != "" {
		playRole(role)
	}
	playFault()
	forkspawn.Register("echo", echo)
	forkspawn.Register("fail", func(context.Context, *forkspawn.Parent) error { return errors.New("no luck today") })
	forkspawn.Register("panic", func(context.Context, *forkspawn.Parent) error { panic("at the disco") })
	forkspawn.Register("exit", func(_ context.Context, p *forkspawn.Parent) error {
		var code int
		if err := p.Spec.DecodeArgs(&code); err != nil {
			return err
		}
		os.Exit(code)
		return nil
	})
	forkspawn.Register("sleep", func(ctx context.Context, _ *forkspawn.Parent) error {
		<-ctx.Done()
		return ctx.Err()
	})
	forkspawn.Register("busy", busy)
	forkspawn.Register("deaf", deaf)
	forkspawn.Register("fds", fds)
	forkspawn.Register("orders", orders)
	forkspawn.Register("flood", flood)
	forkspawn.Register("tree", tree)
	for name, run := range moreEntries {
		forkspawn.Register(name, run)
	}
	mainAlone(m)
	spawntest.Main(m)
}

// moreEntries are those that files with a platform's name add.
var moreEntries = map[string]forkspawn.Run{}

// echo sends back what comes, messages and raw bytes by turns.
func echo(ctx context.Context, p *forkspawn.Parent) error {
	for {
		var v any
		err := p.Recv(ctx, &v)
		var kind *transport.KindError
		switch {
		case errors.As(err, &kind):
			buf := make([]byte, 1<<20)
			n, err := p.RecvBytes(ctx, buf)
			if err != nil {
				return err
			}
			if err := p.SendBytes(ctx, buf[:n]); err != nil {
				return err
			}
			continue
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		if err := p.Send(ctx, v); err != nil {
			return err
		}
	}
}

// busy never receives; it says when it learns that it should stop.
func busy(ctx context.Context, p *forkspawn.Parent) error {
	if err := p.Send(ctx, "busy"); err != nil {
		return err
	}
	for ctx.Err() == nil {
		for range 1000 { // work, with no regard for the channel
		}
	}
	var asked *forkspawn.CancelError
	if !errors.As(context.Cause(ctx), &asked) {
		return fmt.Errorf("stopped for another reason: %w", context.Cause(ctx))
	}
	return nil
}

// deaf ignores what it is asked, and SIGTERM too if its arguments say so.
func deaf(ctx context.Context, p *forkspawn.Parent) error {
	var toTerm bool
	p.Spec.DecodeArgs(&toTerm)
	if toTerm {
		signal.Ignore(syscall.SIGTERM)
	}
	if err := p.Send(context.Background(), "deaf"); err != nil {
		return err
	}
	select {}
}

// fds reports what descriptors the process has, by number and target, and those of a child of its own.
func fds(ctx context.Context, p *forkspawn.Parent) error {
	var deeper bool
	p.Spec.DecodeArgs(&deeper)
	report := map[string]string{}
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, n := range names {
		if target, err := os.Readlink("/proc/self/fd/" + n.Name()); err == nil {
			report[n.Name()] = target
		}
	}
	if err := p.Send(ctx, report); err != nil {
		return err
	}
	if !deeper {
		return nil
	}
	s, err := forkspawn.New(forkspawn.Config{})
	if err != nil {
		return err
	}
	defer s.Close()
	c, err := s.Spawn(ctx, spawnspec.Spec{Entry: "fds"})
	if err != nil {
		return err
	}
	if err := c.Recv(ctx, &report); err != nil {
		return err
	}
	return p.Send(ctx, report)
}

// orders sends its spec back.
func orders(ctx context.Context, p *forkspawn.Parent) error {
	dir, err := os.Getwd()
	if err != nil {
		return err
	}
	deadline, _ := ctx.Deadline()
	_, ticket := os.LookupEnv(handshake.TicketEnv)
	comm, _ := os.ReadFile("/proc/self/comm")
	return p.Send(ctx, map[string]any{
		"name": p.Spec.Name, "dir": dir, "depth": p.Spec.Depth, "method": p.Spec.Method,
		"parent": p.Identity().PID, "ppid": os.Getppid(), "vars": p.Spec.Vars, "modules": p.Spec.Modules,
		"deadline": deadline, "ticket": ticket, "comm": strings.TrimSpace(string(comm)),
		"args": strings.Join(os.Args[1:], " "), "env": os.Getenv("GREETING"),
	})
}

// flood writes 10 MiB to stdout and stderr and then says so.
func flood(ctx context.Context, p *forkspawn.Parent) error {
	line := strings.Repeat("x", 1<<16) // with no newline: a line of 10 MiB
	for range 160 {
		io.WriteString(os.Stdout, line)
		io.WriteString(os.Stderr, line)
	}
	fmt.Fprintln(os.Stderr, "\nthe last line")
	return p.Send(ctx, "done")
}

// tree spawns one child, tells its pid, and sleeps. By its arguments that child can be ended by one way
// alone: by the kernel's signal, as it takes no notice of its parent's end, or by noticing, as there is no
// signal.
func tree(ctx context.Context, p *forkspawn.Parent) error {
	var bySignal bool
	if err := p.Spec.DecodeArgs(&bySignal); err != nil {
		return err
	}
	s, err := forkspawn.New(forkspawn.Config{NoParentDeathSignal: !bySignal})
	if err != nil {
		return err
	}
	defer s.Close()
	cmd, spec := forkspawn.Command{}, spawnspec.Spec{Name: "leaf", Entry: "deaf", Args: true}
	if bySignal {
		cmd = role("heedless")
	}
	c, err := s.SpawnCommand(ctx, cmd, spec)
	if err != nil {
		return err
	}
	if err := p.Send(ctx, c.PID()); err != nil {
		return err
	}
	<-ctx.Done()
	return ctx.Err()
}

// bound is generous: it is there to find hangs.
const bound = 60 * time.Second

func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	t.Cleanup(cancel)
	return ctx
}

// newSpawner returns a Spawner that the test's end closes, with streams that do not disturb.
func newSpawner(t testing.TB, cfg forkspawn.Config) *forkspawn.Spawner {
	t.Helper()
	if method := os.Getenv(methodEnv); method != "" && cfg.Method == "" && cfg.Starter == nil {
		cfg.Method = method
	}
	return spawntest.NewSpawner(t, cfg)
}

// networks runs a test over each transport.
func networks(t *testing.T, f func(t *testing.T, listen transport.Addr)) {
	t.Run("uds", func(t *testing.T) { f(t, transport.Addr{}) })
	t.Run("tcp", func(t *testing.T) { f(t, transport.Addr{Scheme: "tcp", Target: "127.0.0.1:0"}) })
	t.Run("tls", func(t *testing.T) { f(t, transport.Addr{Scheme: "tls", Target: "127.0.0.1:0"}) })
}

func spawn(t testing.TB, s *forkspawn.Spawner, spec spawnspec.Spec) *forkspawn.Child {
	t.Helper()
	c, err := s.Spawn(testContext(t), spec)
	require.NoError(t, err)
	return c
}

// spawnError spawns what must fail, and checks that nothing is left of it.
func spawnError(t testing.TB, ctx context.Context, s *forkspawn.Spawner, cmd forkspawn.Command, spec spawnspec.Spec) *forkspawn.BootError {
	t.Helper()
	c, err := s.SpawnCommand(ctx, cmd, spec)
	require.Nil(t, c)
	var boot *forkspawn.BootError
	require.ErrorAs(t, err, &boot)
	t.Log(boot)
	if boot.PID != 0 {
		assert.False(t, alive(boot.PID), "the process is gone and reaped")
	}
	assert.Equal(t, spec.Name, boot.Name)
	return boot
}

// alive tells whether a process, or a zombie, has the number.
func alive(pid int) bool { return syscall.Kill(pid, 0) == nil }

// eventually waits for a state, which nothing announces, by looking.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	spawntest.Eventually(t, what, f)
}

// role is a command that starts the test binary in a role.
func role(name string, args ...string) forkspawn.Command {
	exe, err := os.Executable()
	if err != nil {
		panic(err)
	}
	return forkspawn.Command{Path: exe, Args: args, Env: append(os.Environ(), roleEnv+"="+name)}
}

func sh(script string) forkspawn.Command {
	return forkspawn.Command{Path: "sh", Args: []string{"-c", script}}
}

// build compiles a small program and returns its path.
func build(t testing.TB, dir, source string, env ...string) string {
	t.Helper()
	src := filepath.Join(dir, "main.go")
	require.NoError(t, os.WriteFile(src, []byte(source), 0o644))
	out := filepath.Join(dir, "program")
	cmd := exec.Command("go", "build", "-o", out, src)
	cmd.Env = append(os.Environ(), env...)
	b, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", b)
	return out
}
