//go:build unix

package siblings

import (
	"context"
	"errors"
	"os"
	"os/exec"
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
	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
	"github.com/spawnwire/spawnwire/transport/uds"
)

func TestMain(m *testing.M) { spawntest.Main(m) }

// The methods of members.
var (
	greet = call.NewUnary[string, string]("greet") // of siblings
	visit = call.NewUnary[string, string]("visit") // greets the sibling of that name
	reuse = call.NewUnary[string, int]("reuse")    // uses a key several times
	leave = call.NewUnary[string, string]("leave") // connects and is killed
)

// member accepts siblings and connects to others.
var memberEntry = spawntest.Func(func(ctx context.Context, parent *forkspawn.Parent) error {
	mux := visitor()
	stop := Accept(ctx, mux, parent, func(ctx context.Context, peer *handshake.Peer) {
		own := call.NewMux()
		greet.Handle(own, func(_ context.Context, s string) (string, error) {
			return s + ", " + peer.Name + ", from " + parent.Spec().Name, nil
		})
		call.Serve(ctx, call.Over(peer.Channel), own)
	})
	defer stop()
	return call.Serve(ctx, parent, mux)
})

// loner only connects.
var lonerEntry = spawntest.Func(func(ctx context.Context, parent *forkspawn.Parent) error {
	return call.Serve(ctx, parent, visitor())
})

func visitor() *call.Mux {
	mux := call.NewMux()
	visit.Handle(mux, func(ctx context.Context, name string) (string, error) {
		peer, err := Dial(ctx, call.ConnOf(ctx), name)
		if err != nil {
			return "", err
		}
		defer peer.Close()
		conn := call.New(call.Over(peer.Channel), nil)
		defer conn.Close()
		return greet.Call(ctx, conn, "hello")
	})
	reuse.Handle(mux, func(ctx context.Context, name string) (int, error) {
		in, err := find.Call(ctx, call.ConnOf(ctx), name)
		if err != nil {
			return 0, err
		}
		n := 0
		for range 3 {
			var addr transport.Addr
			if err := addr.UnmarshalText([]byte(in.Addr)); err != nil {
				return 0, err
			}
			socket, err := uds.Dial(ctx, addr)
			if err != nil {
				continue
			}
			// A second connection may be accepted and closed, before the socket is.
			peer, err := handshake.ConnectPeer(ctx, socket, in.config())
			if err != nil {
				continue
			}
			defer peer.Close()
			conn := call.New(call.Over(peer.Channel), nil)
			defer conn.Close()
			if _, err := greet.Call(ctx, conn, "hello"); err == nil {
				n++
			}
		}
		return n, nil
	})
	leave.Handle(mux, func(ctx context.Context, name string) (string, error) {
		if _, err := Dial(ctx, call.ConnOf(ctx), name); err != nil {
			return "", err
		}
		return "", syscall.Kill(os.Getpid(), syscall.SIGKILL)
	})
	return mux
}

// testGrace is how long the parent waits for a cancelled invitation.
const testGrace = time.Second

// family is a parent with children.
type family struct {
	spawner *forkspawn.Spawner
	group   *Group
	mux     *call.Mux
	conns   map[string]*call.Conn
	kids    map[string]*forkspawn.Child
}

func newFamily(t *testing.T, cfg forkspawn.Config, members ...string) *family {
	f := &family{
		spawner: spawntest.NewSpawner(t, cfg), mux: call.NewMux(),
		conns: map[string]*call.Conn{}, kids: map[string]*forkspawn.Child{},
	}
	f.group = New(f.mux, func(from, to *forkspawn.Child) bool {
		return from.Name() != "ada" || to.Name() != "secret"
	})
	for _, name := range members {
		f.add(t, name, memberEntry)
	}
	return f
}

func (f *family) add(t *testing.T, name, entry string) {
	child, err := f.spawner.Spawn(testkit.Context(t), spawnspec.Spec{Name: name, Entry: entry})
	require.NoError(t, err)
	conn := call.Config{CancelGrace: testGrace}.New(child, f.mux)
	t.Cleanup(func() { conn.Close() }) // a busy machine may need longer than testGrace
	f.conns[name], f.kids[name] = conn, child
	f.group.Add(child, conn)
}

func TestSiblings(t *testing.T) {
	for _, method := range []forkspawn.Method{
		forkspawn.MethodExec, forkspawn.MethodForkserver,
	} {
		t.Run(string(method), func(t *testing.T) {
			if method == forkspawn.MethodForkserver {
				needForkserver(t)
			}
			spawntest.NoLeaks(t)
			cfg := forkspawn.Config{Method: method, Stderr: forkspawn.Capture(nil),
				ForkserverAnyGo: true} // for arm64
			t.Run("find each other", func(t *testing.T) { findEachOther(t, cfg) })
			t.Run("have exact errors", func(t *testing.T) { haveExactErrors(t, cfg) })
			t.Run("see each other's death", func(t *testing.T) { seeEachOthersDeath(t, cfg) })
		})
	}
}

// needForkserver skips the test if this program cannot fork. A program without cgo
// can, so the test runs once more in one.
func needForkserver(t *testing.T) {
	switch {
	case !testkit.CanFork:
		t.Skip("no forkserver here")
	case cgoEnabled:
		cmd := exec.Command("go", "test", "-count=1", "-run", "^TestSiblings$", ".")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		t.SkipNow()
	}
}

func findEachOther(t *testing.T, cfg forkspawn.Config) {
	f := newFamily(t, cfg, "ada", "bob")
	ctx := testkit.Context(t)
	for range 3 {
		got, err := visit.Call(ctx, f.conns["ada"], "bob")
		require.NoError(t, err)
		assert.Equal(t, "hello, ada, from bob", got)
		got, err = visit.Call(ctx, f.conns["bob"], f.kids["ada"].ID())
		require.NoError(t, err)
		assert.Equal(t, "hello, bob, from ada", got)
	}
	n, err := reuse.Call(ctx, f.conns["ada"], "bob")
	require.NoError(t, err)
	assert.Equal(t, 1, n, "a key is used once")
}

func TestSiblings_OfOtherParents(t *testing.T) {
	for name, cfg := range map[string]forkspawn.Config{
		"tcp":        {Listen: transport.Addr{Scheme: transport.SchemeTCP, Target: "127.0.0.1:0"}},
		"in process": {Method: forkspawn.MethodInProcess},
	} {
		t.Run(name, func(t *testing.T) {
			spawntest.NoLeaks(t)
			f := newFamily(t, cfg, "ada", "bob")
			got, err := visit.Call(testkit.Context(t), f.conns["ada"], "bob")
			require.NoError(t, err)
			assert.Equal(t, "hello, ada, from bob", got)
		})
	}
}

func haveExactErrors(t *testing.T, cfg forkspawn.Config) {
	f := newFamily(t, cfg, "ada", "secret")
	f.add(t, "loner", lonerEntry)
	ctx := testkit.Context(t)
	for name, want := range map[string]error{
		"nobody": ErrUnknown, "ada": ErrUnknown, "secret": ErrRefused, "loner": ErrNotAccepting,
	} {
		_, err := visit.Call(ctx, f.conns["ada"], name)
		assert.ErrorIs(t, err, want, name)
		for _, other := range []error{ErrUnknown, ErrRefused, ErrNotAccepting, ErrGone} {
			if other != want { //nolint:errorlint // the very same
				assert.NotErrorIs(t, err, other, name)
			}
		}
	}
	got, err := visit.Call(ctx, f.conns["loner"], "secret")
	require.NoError(t, err)
	assert.Equal(t, "hello, loner, from secret", got)
}

func seeEachOthersDeath(t *testing.T, cfg forkspawn.Config) {
	f := newFamily(t, cfg, "ada", "bob")
	ctx := testkit.Context(t)
	_, err := leave.Call(ctx, f.conns["ada"], "bob")
	var exit *forkspawn.ExitError
	require.ErrorAs(t, err, &exit)
	_, err = visit.Call(ctx, f.conns["bob"], "ada")
	assert.ErrorIs(t, err, ErrUnknown, "ada has died")

	f.add(t, "ada", memberEntry)
	got, err := visit.Call(ctx, f.conns["bob"], "ada")
	require.NoError(t, err)
	assert.Equal(t, "hello, bob, from ada", got, "the child that was added last")

	// A sibling that does not run does not answer. Then it dies.
	require.NoError(t, f.kids["ada"].Signal(syscall.SIGSTOP))
	result := testkit.Background(t, func() error {
		return testkit.Second(visit.Call(ctx, f.conns["bob"], "ada"))
	})
	time.Sleep(10 * time.Millisecond) // so that bob probably asks
	require.NoError(t, f.kids["ada"].Signal(syscall.SIGKILL))
	err = result()
	assert.True(t, errors.Is(err, ErrGone) || errors.Is(err, ErrUnknown), "%v", err)
}

func TestSiblings_AskBounded(t *testing.T) {
	f := newFamily(t, forkspawn.Config{}, "ada", "bob")
	require.NoError(t, f.kids["ada"].Signal(syscall.SIGSTOP))
	ctx, cancel := context.WithTimeout(testkit.Context(t), 50*time.Millisecond)
	defer cancel()
	_, err := visit.Call(ctx, f.conns["bob"], "ada")
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	require.NoError(t, f.kids["ada"].Signal(syscall.SIGCONT))
	_, err = visit.Call(testkit.Context(t), f.conns["bob"], "ada")
	assert.NoError(t, err)
}
