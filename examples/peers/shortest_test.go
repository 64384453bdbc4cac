//go:build unix

package peers_test

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/internal/access"
	"github.com/spawnwire/spawnwire/internal/frame"
	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
)

// shortest is the child of docs/PROTOCOL.md, section 13.1.
var shortest = []string{"-B", "python/shortest.py"}

func overShortest(t *testing.T, test func(t *testing.T, s *forkspawn.Spawner)) {
	spawntest.NoLeaks(t)
	python.need(t)
	python.childOverEach(t, func(t *testing.T, addr transport.Addr) {
		cfg := forkspawn.Config{Command: python.command(t, shortest), Listen: addr,
			StopGrace: bound}
		test(t, spawntest.NewSpawner(t, cfg))
	})
}

func TestShortest_EchoesAndStops(t *testing.T) {
	overShortest(t, func(t *testing.T, s *forkspawn.Spawner) {
		ctx := t.Context()
		child, err := s.Spawn(ctx, spawnspec.Spec{Entry: "echo", Args: map[string]any{"half": 0.5}})
		require.NoError(t, err)
		const most = 1 << 20
		r := rand.New(rand.NewPCG(1, 2))
		sizes := []int{0, 1, 65535, 65536, most}
		for len(sizes) < 1000 {
			sizes = append(sizes, r.IntN(1<<r.IntN(21))) // small ones more often
		}
		message, buf := make([]byte, most), make([]byte, most)
		for i := range message {
			message[i] = byte(r.Uint32())
		}
		for _, size := range sizes {
			received := make(chan error, 1)
			var n int
			go func() {
				var err error
				n, err = child.RecvBytes(ctx, buf)
				received <- err
			}()
			require.NoError(t, child.SendBytes(ctx, message[:size]))
			require.NoError(t, <-received)
			require.True(t, bytes.Equal(message[:size], buf[:n]))
		}
		require.NoError(t, child.Channel().Frames(access.Key{}).Write(ctx,
			frame.Frame{Kind: 0xff, Body: make([]byte, 1<<17)},
			frame.Frame{Kind: frame.KindPing, Body: []byte("ping")}))
		pong, err := child.Channel().Frames(access.Key{}).Read(ctx)
		require.NoError(t, err)
		assert.Equal(t, frame.Frame{Kind: frame.KindPong, Body: []byte("ping")}, pong)

		result, err := child.Stop(ctx)
		require.NoError(t, err)
		assert.Equal(t, forkspawn.Asked, result.By)
		assert.True(t, result.Status.Success(), "%v: %s", result, child.StderrTail())
		t.Log(result, "within", result.Elapsed)
	})
}

func TestShortest_AnswersABadSpec(t *testing.T) {
	overShortest(t, func(t *testing.T, s *forkspawn.Spawner) {
		_, err := s.Spawn(t.Context(), spawnspec.Spec{Entry: "fly"})
		require.ErrorIs(t, err, handshake.ErrUnknownEntry)
	})
}

func TestShortest_AsSpare(t *testing.T) {
	spawntest.NoLeaks(t)
	python.need(t)
	s := spawntest.NewSpawner(t, forkspawn.Config{Command: python.command(t, shortest), Spares: 1})
	require.NoError(t, s.AwaitSpares(t.Context()))
	child, err := s.Spawn(t.Context(), spawnspec.Spec{Name: "spare"})
	require.NoError(t, err)
	assert.True(t, child.Boot().Spare)
	require.NoError(t, child.Channel().Close()) // lets it go
	status, err := child.Wait(t.Context())
	require.NoError(t, err)
	assert.True(t, status.Success(), "%v: %s", status, child.StderrTail())
}
