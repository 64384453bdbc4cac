package call_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/call"
	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/internal/testkit/nettest"
	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
)

func TestMain(m *testing.M) { spawntest.Main(m) }

// The methods of the child.
var (
	hang  = call.NewUnary[word, word]("hang")
	crash = call.NewUnary[word, word]("crash")
	ask   = call.NewUnary[word, word]("ask") // calls the parent's echo

	// These hang, too.
	follow  = call.NewServerStream[int, int]("follow")
	swallow = call.NewClientStream[word, word]("swallow")
	ignore  = call.NewBidi[word, word]("ignore")
	idle    = call.NewSession[int, word, word]("idle")
)

var server = spawntest.Func(func(ctx context.Context, parent *forkspawn.Parent) error {
	return call.Serve(ctx, parent, serverMux())
})

func serverMux() *call.Mux {
	mux := streams()
	hangs := func(ctx context.Context) error {
		fmt.Fprintln(os.Stderr, "hanging now")
		<-ctx.Done()
		return ctx.Err()
	}
	hang.Handle(mux, func(ctx context.Context, w word) (word, error) { return w, hangs(ctx) })
	follow.Handle(mux, func(ctx context.Context, n int, send func(int) error) error {
		for i := range n {
			if err := send(i); err != nil {
				return err
			}
		}
		return hangs(ctx)
	})
	swallow.Handle(mux, func(ctx context.Context, _ iter.Seq2[word, error]) (word, error) {
		return word{}, hangs(ctx)
	})
	ignore.Handle(mux, func(ctx context.Context, _ *call.Stream[word, word]) error {
		return hangs(ctx)
	})
	idle.Handle(mux, func(
		ctx context.Context, _ *call.Stream[word, word], started func(int) error,
	) error {
		return errors.Join(started(1), hangs(ctx))
	})
	crash.Handle(mux, func(context.Context, word) (word, error) { return explode() })
	ask.Handle(mux, func(ctx context.Context, w word) (word, error) {
		return echo.Call(ctx, call.ConnOf(ctx), word{w.Text + "?"})
	})
	return mux
}

// spawnServer starts a child that serves, and returns a Conn to it.
func spawnServer(t *testing.T, mux *call.Mux, cfg forkspawn.Config) (*forkspawn.Child, *call.Conn) {
	t.Helper()
	child := spawntest.Spawn(t, server, func(c *forkspawn.Config, _ *spawnspec.Spec) { *c = cfg })
	conn := call.New(child, mux)
	t.Cleanup(func() { assert.NoError(t, conn.Close()) })
	return child, conn
}

func TestChild_ServesAndCallsBack(t *testing.T) {
	for _, method := range []forkspawn.Method{
		forkspawn.MethodExec, forkspawn.MethodForkserver, forkspawn.MethodInProcess,
	} {
		t.Run(string(method), func(t *testing.T) {
			if method == forkspawn.MethodForkserver {
				needForkserver(t)
			}
			child, conn := spawnServer(t, echoes(),
				forkspawn.Config{Method: method, ForkserverAnyGo: true}) // for arm64
			callAll(t, conn)
			result, err := child.Stop(testkit.Context(t))
			require.NoError(t, err)
			assert.True(t, result.Status.Success(), "%v", result)
		})
	}
}

// A call that its caller has not cancelled says who did.
func TestChild_StopCancelsItsCalls(t *testing.T) {
	child, conn := spawnServer(t, nil, forkspawn.Config{})
	failed := testkit.Background(t, func() error {
		return testkit.Second(hang.Call(context.Background(), conn, word{}))
	})
	testkit.Eventually(t, "the handler hangs", func() bool {
		return strings.Contains(child.StderrTail(), "hanging now")
	})
	_, err := child.Stop(testkit.Context(t))
	require.NoError(t, err)
	err = failed()
	assert.ErrorIs(t, err, context.Canceled)
	assert.Contains(t, asError(t, err).CanceledBy, fmt.Sprintf("[%d]", child.PID()))
}

// A child of a group is stopped between and during its calls.
func TestChild_StopIsNoFailureOfItsGroup(t *testing.T) {
	s, err := forkspawn.New(forkspawn.Config{})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, s.Close()) })
	for range 20 {
		g, err := s.NewGroup(testkit.Context(t), forkspawn.GroupConfig{})
		require.NoError(t, err)
		busy := make(chan *forkspawn.Child)
		require.NoError(t, g.Go(spawnspec.Spec{Entry: server},
			func(ctx context.Context, c *forkspawn.Child) error {
				conn := call.New(c, nil)
				defer conn.Close()
				for i := 0; ; i++ {
					if _, err := echo.Call(ctx, conn, word{}); err != nil {
						return err
					}
					if i == 10 {
						busy <- c
					}
				}
			}))
		_, err = testkit.Receive(t, busy).Stop(testkit.Context(t))
		require.NoError(t, err)
		require.NoError(t, g.Wait())
	}
}

// callAll makes a call of each shape, and one with a callback.
func callAll(t *testing.T, conn *call.Conn) {
	t.Helper()
	ctx := testkit.Context(t)
	got, err := echo.Call(ctx, conn, word{"hello"})
	require.NoError(t, err)
	assert.Equal(t, word{"hello"}, got)
	got, err = ask.Call(ctx, conn, word{"are you there"})
	require.NoError(t, err)
	assert.Equal(t, word{"are you there?"}, got)
	n := 0
	for i, err := range count.Call(ctx, conn, 1000) {
		require.NoError(t, err)
		require.Equal(t, n, i)
		n++
	}
	assert.Equal(t, 1000, n)
	total, err := sum.Call(ctx, conn, numbers(1000))
	require.NoError(t, err)
	assert.Equal(t, 999*1000/2, total)
	s, err := loud.Open(ctx, conn)
	require.NoError(t, err)
	converse(t, s)
	_, s, err = shell.Open(ctx, conn)
	require.NoError(t, err)
	converse(t, s)
}

// Two programs share a key, over each transport.
func TestPeers_ServeAndCallBack(t *testing.T) {
	nettest.Each(t, func(t *testing.T, scheme string) {
		ctx := testkit.Context(t)
		ln := nettest.Listen(t, scheme)
		cfg := handshake.PeerConfig{Key: []byte("a key that two programs share")}
		done := testkit.Background(t, func() error {
			conn, err := ln.Accept()
			if err != nil {
				return err
			}
			peer, err := handshake.AcceptPeer(ctx, conn, cfg)
			if err != nil {
				return err
			}
			defer peer.Close()
			return call.Serve(ctx, call.Over(peer.Channel), serverMux())
		})
		peer, err := handshake.ConnectPeer(ctx, nettest.Dial(t, transport.AddrOf(ln.Addr())), cfg)
		require.NoError(t, err)
		conn := call.New(call.Over(peer.Channel), echoes())
		callAll(t, conn)
		require.NoError(t, conn.Close())
		require.NoError(t, peer.Close())
		require.NoError(t, done(), "a goodbye ends Serve")
	})
}

// needForkserver skips the test if this program cannot fork. A program without cgo
// can, so the test runs once more in one.
func needForkserver(t *testing.T) {
	switch {
	case !testkit.CanFork:
		t.Skip("no forkserver here")
	case cgoEnabled:
		cmd := exec.Command("go", "test", "-count=1", "-run", "^"+t.Name()+"$", ".")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		t.SkipNow()
	}
}

// The log has the time from the signal to the last error. The target is 50 ms.
func TestDeath_EndsCallsWithTheExitStatus(t *testing.T) {
	child, conn := spawnServer(t, nil, forkspawn.Config{Stderr: forkspawn.Capture(t.Output())})
	ctx := testkit.Context(t)
	pending := map[string]func() error{
		"a server stream, in a receive": func() error {
			for _, err := range follow.Call(ctx, conn, 3) {
				if err != nil {
					return err
				}
			}
			return nil
		},
		"a client stream, in its requests": func() error {
			return testkit.Second(swallow.Call(ctx, conn, func(yield func(word) bool) {
				for yield(word{strings.Repeat("x", 1000)}) {
				}
			}))
		},
		"a bidirectional call, in a send": func() error {
			s, err := ignore.Open(ctx, conn)
			for err == nil {
				err = s.Send(word{strings.Repeat("x", 1000)})
			}
			return err
		},
		"a session, in a receive": func() error {
			_, s, err := idle.Open(ctx, conn)
			if err == nil {
				_, err = s.Recv()
			}
			return err
		},
	}
	for i := range 5 {
		pending[fmt.Sprint("unary call ", i)] = func() error {
			return testkit.Second(hang.Call(ctx, conn, word{fmt.Sprint(i)}))
		}
	}
	results := map[string]func() error{}
	for name, f := range pending {
		results[name] = testkit.Background(t, f)
	}
	testkit.Eventually(t, "all calls run", func() bool {
		return strings.Count(child.StderrTail(), "hanging now") == len(pending)
	})
	killed := time.Now()
	require.NoError(t, child.Signal(syscall.SIGKILL))
	for name, result := range results {
		err := result()
		var exit *forkspawn.ExitError
		require.ErrorAs(t, err, &exit, name)
		assert.Equal(t, syscall.SIGKILL, exit.Status.Signal())
		assert.Contains(t, exit.Stderr, "hanging now")
		assert.ErrorIs(t, err, transport.ErrPeerGone, name)
	}
	t.Logf("%d calls ended %v after the signal", len(results), time.Since(killed))
	testkit.Receive(t, conn.Done())
	assert.ErrorAs(t, conn.Err(), new(*forkspawn.ExitError))
	_, err := echo.Call(ctx, conn, word{})
	assert.ErrorAs(t, err, new(*forkspawn.ExitError), "a call after the death")
	assert.Equal(t, call.CodeConnection, asError(t, err).Code)
}

func TestPanic_EndsTheProcessAfterTheReport(t *testing.T) {
	_, conn := spawnServer(t, nil, forkspawn.Config{})
	ctx := testkit.Context(t)
	_, err := crash.Call(ctx, conn, word{})
	e := asError(t, err)
	assert.Equal(t, call.CodePanic, e.Code)
	assert.Contains(t, e.Stack, "explode")
	testkit.Receive(t, conn.Done())
	assertExit(t, conn.Err(), 2)
}

// assertExit checks the exit of a child as the reason for err.
func assertExit(t *testing.T, err error, code int) {
	t.Helper()
	var exit *forkspawn.ExitError
	require.ErrorAs(t, err, &exit)
	assert.Equal(t, code, exit.Status.Code())
	assert.Contains(t, exit.Stderr, "boom")
}
