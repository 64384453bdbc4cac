package tcp

import (
	"context"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/internal/testkit/netns"
	"github.com/spawnwire/spawnwire/transport"
)

// remote returns a channel to another machine, and the connection there.
func remote(t *testing.T, cfg transport.Config) (
	m *netns.Machine, here *transport.Channel, there net.Conn,
) {
	t.Helper()
	m = netns.New(t)
	tr := Transport{AllowUnencrypted: true}
	var l net.Listener
	m.Do(t, func() { l = mustListen(t, tr, m.Addr+":0") })
	dialed, there := connect(t, tr, l, transport.AddrOf(l.Addr()))
	here = transport.New(dialed, cfg)
	t.Cleanup(func() { here.Abort() })
	return m, here, there
}

func assertDead(t *testing.T, err error) {
	t.Helper()
	assert.ErrorIs(t, err, transport.ErrPeerGone)
	assert.ErrorIs(t, err, syscall.ETIMEDOUT)
	assert.ErrorContains(t, err, "its machine has not answered in time")
}

// sendAll sends until an error comes.
func sendAll(ctx context.Context, ch *transport.Channel) error {
	for {
		if err := ch.SendBytes(ctx, make([]byte, 1<<16)); err != nil {
			return err
		}
	}
}

// Only the channel ends these connections in time: the kernel would take 35 seconds or a
// quarter of an hour.
func TestDeath_OfTheMachine(t *testing.T) {
	t.Parallel()
	for name, use := range map[string]func(ctx context.Context, ch *transport.Channel) error{
		"a receive waits": func(ctx context.Context, ch *transport.Channel) error {
			_, err := ch.RecvBytes(ctx, make([]byte, 1))
			return err
		},
		"data is in flight": func(ctx context.Context, ch *transport.Channel) error {
			if err := ch.Send(ctx, "anybody?"); err != nil {
				return err
			}
			_, err := ch.RecvBytes(ctx, make([]byte, 1))
			return err
		},
		"a send waits": sendAll,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, ch, _ := remote(t, transport.Config{})
			m.Cut(t)
			began := time.Now()
			assertDead(t, use(testkit.Context(t), ch))
			t.Logf("noticed after %v", time.Since(began))
		})
	}
}

func TestDeath_OfTheMachineOfAStoppedPeer(t *testing.T) {
	t.Parallel()
	m, ch, _ := remote(t, transport.Config{})
	ended := make(chan error, 1)
	go func() { ended <- sendAll(t.Context(), ch) }()
	time.Sleep(time.Second) // until its window is full
	m.Cut(t)
	began := time.Now()
	assertDead(t, <-ended)
	t.Logf("noticed after %v", time.Since(began))
}

// A peer that does not read is alive, as its kernel says. TCP_USER_TIMEOUT would end this
// connection.
func TestDeath_IsNotAStoppedPeer(t *testing.T) {
	t.Parallel()
	const least = 2 * time.Second // the shortest bound of the kernel's probes
	patience := 4 * least
	if testkit.IsLong() {
		patience = time.Minute
	}
	_, idle, _ := remote(t, transport.Config{DeadAfter: least})
	_, ch, there := remote(t, transport.Config{DeadAfter: least})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var sent int
	for ctx.Err() == nil {
		if err := ch.SendBytes(ctx, make([]byte, 1000)); err != nil {
			require.ErrorIs(t, err, context.DeadlineExceeded)
			break
		}
		sent++
	}
	require.NotZero(t, sent)
	reader := transport.New(there, transport.Config{})
	defer reader.Abort()
	for range sent {
		_, err := reader.RecvBytes(testkit.Context(t), make([]byte, 1000))
		require.NoError(t, err)
	}
	require.NoError(t, idle.Send(testkit.Context(t), "still there"))
}

// A cable that is mended within the bound costs nothing.
func TestDeath_IsNotAShortCut(t *testing.T) {
	t.Parallel()
	m, ch, there := remote(t, transport.Config{DeadAfter: testkit.Patience})
	m.Cut(t)
	require.NoError(t, ch.Send(testkit.Context(t), "hello"))
	time.Sleep(3 * transport.DefaultDeadAfter / 2)
	m.Heal(t)
	var text string
	reader := transport.New(there, transport.Config{DeadAfter: testkit.Patience})
	defer reader.Abort()
	require.NoError(t, reader.Recv(testkit.Context(t), &text))
	assert.Equal(t, "hello", text)
}
