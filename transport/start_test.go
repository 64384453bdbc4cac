package transport_test

import (
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/internal/frame"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/transport"
)

func TestStart_SendsWithoutWaitingOrInAFinish(t *testing.T) {
	for _, l := range links() {
		t.Run(l.name, func(t *testing.T) {
			a, b := l.channels(t)
			ctx := testkit.Context(t)
			large := pattern(1, 8<<20)
			sent := testkit.Background(t, func() error {
				for _, body := range [][]byte{{1, 2}, large, {3}} {
					rest, err := frames(a).Start(frameOf(frame.KindCall, body...))
					if rest != nil {
						err = rest.Finish()
					}
					if err != nil {
						return err
					}
				}
				return a.Send(ctx, "after it")
			})
			for _, want := range [][]byte{{1, 2}, large, {3}} {
				f, _, err := frames(b).Next(ctx)
				require.NoError(t, err)
				require.Equal(t, frame.KindCall, f.Kind)
				require.True(t, string(want) == string(f.Body))
			}
			var text string
			require.NoError(t, b.Recv(ctx, &text))
			assert.Equal(t, "after it", text)
			require.NoError(t, sent())
		})
	}
}

func TestStart_FullSocketLeavesTheRest(t *testing.T) {
	for _, l := range sockets {
		t.Run(l.name, func(t *testing.T) {
			a, b := l.channels(t)
			ctx := testkit.Context(t)
			rest, err := frames(a).Start(frameOf(frame.KindRaw, pattern(1, 16<<20-1)...))
			require.NoError(t, err)
			require.NotNil(t, rest, "16 MiB fit into the socket")
			after := testkit.Background(t, func() error { return a.SendBytes(ctx, []byte{7}) })
			finished := testkit.Background(t, rest.Finish)
			body, err := b.RecvBorrowed(ctx)
			require.NoError(t, err)
			require.Len(t, body, 16<<20-1)
			require.NoError(t, finished())
			body, err = b.RecvBorrowed(ctx)
			require.NoError(t, err)
			assert.Equal(t, []byte{7}, body)
			require.NoError(t, after())
		})
	}
}

func TestStart_AfterTheEnd(t *testing.T) {
	a, b := sockets[0].channels(t)
	require.NoError(t, b.Abort())
	testkit.Eventually(t, "a send fails", func() bool {
		rest, err := frames(a).Start(frameOf(frame.KindRaw, 1))
		require.Nil(t, rest)
		return err != nil
	})
	_, err := frames(a).Start(frameOf(frame.KindRaw, 1))
	require.ErrorIs(t, err, transport.ErrPeerGone)
	require.NoError(t, a.Abort())
	_, err = frames(a).Start(frameOf(frame.KindRaw, 1))
	require.ErrorIs(t, err, transport.ErrChannelClosed)
}

func TestNext_ReportsFramesThatHaveArrived(t *testing.T) {
	c, peer := sockets[0].withRawPeer(t, transport.Config{})
	var all []byte
	for _, f := range [][]byte{
		frameOf(frame.KindCall, 1), frameOf(frame.KindPing), frameOf(frame.KindMessage, 0x18, 42),
	} {
		all = append(all, f...)
	}
	_, err := peer.Write(all[:len(all)-1])
	require.NoError(t, err)
	ctx := testkit.Context(t)
	f, more, err := frames(c).Next(ctx)
	require.NoError(t, err)
	assert.Equal(t, frame.Frame{Kind: frame.KindCall, Body: []byte{1}}, f)
	assert.True(t, more, "the ping is whole")
	_, err = peer.Write(all[len(all)-1:])
	require.NoError(t, err)
	f, more, err = frames(c).Next(ctx)
	require.NoError(t, err)
	assert.Equal(t, frame.Frame{Kind: frame.KindMessage, Body: []byte{0x18, 42}}, f)
	assert.False(t, more)
}

func TestRecv_CallStaysForNext(t *testing.T) {
	a, b := sockets[0].channels(t)
	ctx := testkit.Context(t)
	require.NoError(t, frames(a).Write(ctx, frame.Frame{Kind: frame.KindCall, Body: []byte{1}}))
	require.ErrorIs(t, b.Recv(ctx, new(any)), transport.ErrWrongKind)
	f, _, err := frames(b).Next(ctx)
	require.NoError(t, err)
	assert.Equal(t, frame.Frame{Kind: frame.KindCall, Body: []byte{1}}, f)
}

// The peer's goodbye interrupts a Start. Then it fails and leaves the queue.
func TestStart_EndsAtTheGoodbye(t *testing.T) {
	for _, l := range sockets {
		t.Run(l.name, func(t *testing.T) {
			c, _ := l.withRawPeer(t, transport.Config{})
			raw, err := c.NetConn().(syscall.Conn).SyscallConn()
			require.NoError(t, err)
			held, release := make(chan struct{}), make(chan struct{})
			holds := testkit.Background(t, func() error {
				return raw.Write(func(uintptr) bool { // no other write begins
					close(held)
					<-release
					return true
				})
			})
			<-held
			started := testkit.Background(t, func() error {
				rest, err := frames(c).Start(frameOf(frame.KindRaw, 1, 2, 3))
				if rest != nil {
					err = rest.Finish()
				}
				return err
			})
			testkit.Eventually(t, "a start", func() bool { return c.Senders() == 1 })
			frames(c).LetGo()
			close(release)
			require.NoError(t, holds())
			require.ErrorIs(t, started(), transport.ErrPeerGone)
			require.Zero(t, c.Senders())
			require.ErrorIs(t, c.SendBytes(testkit.Context(t), nil), transport.ErrPeerGone)
		})
	}
}
