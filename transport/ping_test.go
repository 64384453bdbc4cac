package transport_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/spawnwire/spawnwire/internal/frame"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/transport"
)

// receiving receives until the channel's end.
func receiving(t testing.TB, c *transport.Channel) (result func() error) {
	return testkit.Background(t, func() error {
		for {
			if err := c.Recv(context.Background(), new(any)); err != nil {
				return err
			}
		}
	})
}

func TestPing_IsAnswered(t *testing.T) {
	for _, l := range links() {
		t.Run(l.name, func(t *testing.T) {
			a, b := l.channels(t)
			ra, rb := receiving(t, a), receiving(t, b)
			var wg sync.WaitGroup
			for _, c := range []*transport.Channel{a, b} {
				for range 8 {
					wg.Go(func() {
						for range 20 {
							took, err := c.Ping(testkit.Context(t))
							if assert.NoError(t, err) {
								assert.Positive(t, took)
								assert.Less(t, took, testkit.Patience)
							}
						}
					})
				}
			}
			wg.Wait()
			require.NoError(t, a.Close())
			require.ErrorIs(t, ra(), transport.ErrChannelClosed)
			require.ErrorIs(t, rb(), io.EOF)
		})
	}
}

func TestPing_EndsWithItsContext(t *testing.T) {
	a, _ := sockets[0].channels(t)
	ctx, cancel := context.WithTimeoutCause(context.Background(), time.Millisecond, errCause)
	defer cancel()
	_, err := a.Ping(ctx)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorIs(t, err, errCause)
	assert.EqualError(t, err, "transport: ping: context deadline exceeded: the caller's own cause")
	require.NoError(t, a.Send(testkit.Context(t), 1), "the channel works on")
}

func TestPing_EndsWithReceiving(t *testing.T) {
	for name, test := range map[string]struct {
		last []byte
		want error
	}{
		"the peer crashed": {nil, transport.ErrPeerGone},
		"the peer said goodbye": {frameOf(frame.KindGoodbye,
			[]byte("\xa1\x66status\x00")...), io.EOF},
		"the peer broke the protocol":      {frameOf(0x7f), transport.ErrProtocol},
		"the peer sent a frame of no size": {make([]byte, 5), transport.ErrProtocol},
		"the peer sent too large a frame":  {[]byte{0, 0, 0, 0xff, 1}, transport.ErrProtocol},
	} {
		t.Run(name, func(t *testing.T) {
			c, peer := sockets[0].withRawPeer(t, transport.Config{})
			pinged := testkit.Background(t, func() error {
				_, err := c.Ping(context.Background())
				return err
			})
			readN(t, peer, 13)
			peer.Write(test.last)
			peer.Close()
			require.ErrorIs(t, c.Recv(testkit.Context(t), new(any)), test.want)
			require.ErrorIs(t, pinged(), test.want)
		})
	}
}

func TestPing_StrayPongsAreIgnored(t *testing.T) {
	c, peer := sockets[0].withRawPeer(t, transport.Config{})
	for _, size := range []int{0, 7, 8, 9, 64, 100_000} {
		go peer.Write(append(frameOf(frame.KindPong, make([]byte, size)...),
			frameOf(frame.KindMessage, 1)...))
		require.NoError(t, c.Recv(testkit.Context(t), new(int)), "%d", size)
	}
}

// live returns the number of bytes of the heap in use.
func live() uint64 {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}

// answering returns the number of goroutines in answerAll.
func answering() int {
	stacks := make([]byte, 1<<20)
	return strings.Count(string(stacks[:runtime.Stack(stacks, true)]),
		"transport.(*Channel).answerAll(")
}

func TestPing_FloodIsHarmless(t *testing.T) {
	for _, l := range links() {
		if l.name == "net.Pipe" {
			continue // it has no buffer to fill
		}
		t.Run(l.name, func(t *testing.T) {
			c, peer := l.withRawPeer(t, transport.Config{})
			others := goleak.IgnoreCurrent()
			wrote := testkit.Background(t, func() error {
				pings := bytes.Repeat(frameOf(frame.KindPing, make([]byte, 64)...), 1000)
				for range 200 {
					if _, err := peer.Write(pings); err != nil {
						return err
					}
				}
				_, err := peer.Write(frameOf(frame.KindMessage, 0x63, 'e', 'n', 'd'))
				return err
			})
			before := live()
			var got string
			require.NoError(t, c.Recv(testkit.Context(t), &got),
				"200,000 pings do not hold the message behind them up")
			require.NoError(t, wrote())
			require.Equal(t, "end", got)
			assert.LessOrEqual(t, answering(), 1)
			assert.Less(t, live(), before+1<<20)

			start := time.Now()
			c.Close() // may fail, because there is no room for the goodbye
			assert.Less(t, time.Since(start), testkit.Patience)
			assert.Zero(t, answering())
			goleak.VerifyNone(t, others)
		})
	}
}

// slowToEnd is a connection whose Write returns a while after Close.
type slowToEnd struct {
	net.Conn
	closed         chan struct{}
	writing, wrote atomic.Bool
}

func (s *slowToEnd) Write([]byte) (int, error) {
	s.writing.Store(true)
	<-s.closed
	for range 1000 {
		runtime.Gosched()
	}
	s.wrote.Store(true)
	return 0, net.ErrClosed
}

func (s *slowToEnd) Close() error {
	close(s.closed)
	return s.Conn.Close()
}

func TestAbort_WaitsForThePong(t *testing.T) {
	x, peer := sockets[0].connect(t)
	slow := &slowToEnd{Conn: x, closed: make(chan struct{})}
	c := open(t, slow, transport.Config{})
	write(peer, append(frameOf(frame.KindPing), frameOf(frame.KindMessage, 1)...))
	require.NoError(t, c.Recv(testkit.Context(t), new(any)))
	for !slow.writing.Load() {
		runtime.Gosched()
	}
	require.NoError(t, c.Abort())
	assert.True(t, slow.wrote.Load())
}

func TestPing_WhileTheChannelCloses(t *testing.T) {
	for _, l := range sockets {
		t.Run(l.name, func(t *testing.T) {
			for i := range 100 {
				c, peer := l.withRawPeer(t, transport.Config{})
				go func() {
					pings := bytes.Repeat(frameOf(frame.KindPing, 1), 20)
					for {
						if _, err := peer.Write(pings); err != nil {
							return
						}
					}
				}()
				go dropAll(peer)
				received := receiving(t, c)
				for range i {
					runtime.Gosched()
				}
				if i%2 == 0 {
					require.NoError(t, c.Close())
				} else {
					require.NoError(t, c.Abort())
				}
				require.Zero(t, answering(), "the goroutine ends before Abort returns")
				require.ErrorIs(t, received(), transport.ErrChannelClosed)
				peer.Close()
			}
		})
	}
}
