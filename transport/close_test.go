package transport_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/transport"
)

func TestAnOrderlyCloseComesAfterAllMessages(t *testing.T) {
	for _, l := range links() {
		t.Run(l.name, func(t *testing.T) {
			t.Parallel()
			a, b := l.channels(t)
			closed := background(t, func() error {
				for i := range 50 {
					if err := a.Send(soon(t), i); err != nil {
						return err
					}
				}
				return a.CloseWith(soon(t), 7, "all done")
			})
			for i := range 50 {
				var got int
				require.NoError(t, b.Recv(soon(t), &got))
				require.Equal(t, i, got)
			}
			for range 3 { // for good
				err := b.Recv(soon(t), new(any))
				var bye *transport.GoodbyeError
				require.ErrorAs(t, err, &bye)
				assert.Equal(t, transport.GoodbyeError{Status: 7, Reason: "all done"}, *bye)
				assert.ErrorIs(t, err, io.EOF)
				assert.NotErrorIs(t, err, transport.ErrPeerGone)
				assert.NotErrorIs(t, err, transport.ErrClosed)
				assert.EqualError(t, err, "transport: receive: peer said goodbye with status 7: all done")
				_, err = b.RecvBytes(soon(t), nil)
				assert.ErrorIs(t, err, io.EOF)
			}
			require.NoError(t, closed())
			assert.NoError(t, b.Close(), "the peer, which said goodbye, need not hear ours")
		})
	}
}

// A closer with unread input must not destroy what it sent: the kernel resets such a connection,
// and throws away what it has not delivered.
func TestMessagesAndTheGoodbyeSurviveWhenTheCloserHasNotReadEverything(t *testing.T) {
	const messages = 130 // of 1000 bytes: more than b's kernel takes of TCP, so a's kernel keeps the rest
	for _, l := range append([]link{{"TLS", tlsLink}}, sockets...) {
		for name, test := range map[string]struct{ before, during int }{
			"input before the close": {20, 0},
			"input during the close": {0, 20},
		} {
			t.Run(l.name+", "+name, func(t *testing.T) {
				t.Parallel()
				x, y := l.connect(t)
				require.NoError(t, socket(x).(interface{ SetWriteBuffer(int) error }).SetWriteBuffer(messages*1500))
				a, b := open(t, x, transport.Config{}), open(t, y, transport.Config{})
				for range test.before {
					require.NoError(t, b.SendBytes(soon(t), make([]byte, 1000)))
				}
				for i := range messages {
					require.NoError(t, a.SendBytes(soon(t), pattern(i, 1000)))
				}
				closed := background(t, func() error { return a.CloseWith(soon(t), 3, "") })
				for range test.during {
					for range 100 {
						runtime.Gosched()
					}
					b.SendBytes(soon(t), make([]byte, 1000)) // arrives or not
				}
				buf := make([]byte, 1000)
				for i := range messages {
					_, err := b.RecvBytes(soon(t), buf)
					require.NoError(t, err, "message %d", i)
					require.True(t, bytes.Equal(pattern(i, 1000), buf))
				}
				var bye *transport.GoodbyeError
				require.ErrorAs(t, b.Recv(soon(t), new(any)), &bye)
				assert.Equal(t, 3, bye.Status)
				require.NoError(t, closed())
			})
		}
	}
}

// Close throws unread input away; a receive under way must not see the hole that this makes.
func TestAReceiveUnderWayWhileTheChannelClosesGetsAWholeMessageOrNone(t *testing.T) {
	rounds := 40
	if testing.Short() || raceDetector {
		rounds = 5
	}
	want := pattern(1, 8_000_000)
	for _, l := range append([]link{{"TLS", tlsLink}}, sockets...) {
		t.Run(l.name, func(t *testing.T) {
			t.Parallel()
			for round := range rounds {
				c, peer := l.withRawPeer(t, transport.Config{})
				flood := frame(transport.KindRaw, want...)
				go func() {
					for {
						if _, err := peer.Write(flood); err != nil {
							return
						}
					}
				}()
				first := make(chan struct{})
				received := background(t, func() error {
					buf := make([]byte, len(want))
					for i := 0; ; i++ {
						if i == round%5 {
							close(first)
						}
						if _, err := c.RecvBytes(soon(t), buf); err != nil {
							return err
						}
						if !bytes.Equal(want, buf) {
							return errors.New("a message with a hole")
						}
					}
				})
				<-first
				require.NoError(t, c.Close())
				require.ErrorIs(t, received(), transport.ErrClosed)
				peer.Close()
			}
		})
	}
}

func TestACrashIsErrPeerGone(t *testing.T) {
	for _, l := range links() {
		for name, test := range map[string]struct {
			before []byte
			middle bool
		}{
			"after nothing":               {nil, false},
			"after a message":             {frame(transport.KindMessage, 1), false},
			"in a header":                 {[]byte{9, 0}, true},
			"behind a header":             {[]byte{9, 0, 0, 0, 1}, true},
			"in a body":                   {[]byte{9, 0, 0, 0, 1, 1, 1}, true},
			"in a large body":             {append([]byte{0, 0, 2, 0, 1}, make([]byte, 70_000)...), true},
			"in a frame that is skipped":  {append([]byte{0, 0, 2, 0, 0x80}, make([]byte, 70_000)...), true},
			"in a control frame":          {[]byte{9, 0, 0, 0, 0x21, 0xa1}, true},
			"in a header after a message": {append(frame(transport.KindMessage, 1), 5), true},
		} {
			t.Run(l.name+", "+name, func(t *testing.T) {
				c, peer := l.withRawPeer(t, transport.Config{})
				go func() {
					peer.Write(test.before)
					socket(peer).Close()
				}()
				err := c.Recv(soon(t), new(any))
				if err == nil {
					err = c.Recv(soon(t), new(any))
				}
				require.ErrorIs(t, err, transport.ErrPeerGone)
				assert.NotErrorIs(t, err, io.EOF)
				assert.NotErrorIs(t, err, transport.ErrReset, "nothing was sent that it has not read")
				if want := "in the middle of a frame"; test.middle {
					assert.Contains(t, err.Error(), want)
				} else {
					assert.NotContains(t, err.Error(), want)
				}
				assert.ErrorIs(t, c.Recv(soon(t), new(any)), transport.ErrPeerGone, "for good")
			})
		}
	}
}

func TestAResetIsErrPeerGone(t *testing.T) {
	t.Run("TCP with no linger", func(t *testing.T) {
		x, y := tcpLink(t)
		c := open(t, x, transport.Config{})
		received := background(t, func() error { return c.Recv(soon(t), new(any)) })
		require.NoError(t, y.(*net.TCPConn).SetLinger(0))
		require.NoError(t, y.Close())
		require.ErrorIs(t, received(), transport.ErrPeerGone)
		require.ErrorIs(t, c.Send(soon(t), 1), transport.ErrPeerGone)
	})
	for _, l := range sockets {
		t.Run(l.name+" with unread input", func(t *testing.T) {
			c, peer := l.withRawPeer(t, transport.Config{})
			require.NoError(t, c.Send(soon(t), "is never read"))
			require.NoError(t, peer.Close())
			err := c.Recv(soon(t), new(any))
			require.ErrorIs(t, err, transport.ErrPeerGone)
			if runtime.GOOS == "linux" {
				require.ErrorIs(t, err, transport.ErrReset)
			}
		})
	}
}

func TestASendToAPeerThatIsGoneIsErrPeerGone(t *testing.T) {
	for _, l := range links() {
		t.Run(l.name, func(t *testing.T) {
			c, peer := l.withRawPeer(t, transport.Config{})
			socket(peer).Close()
			var err error
			for err == nil { // TCP takes the first ones
				err = c.Send(soon(t), 1)
			}
			require.ErrorIs(t, err, transport.ErrPeerGone)
			require.ErrorIs(t, c.Send(soon(t), 1), transport.ErrPeerGone, "for good")
			require.ErrorIs(t, c.SendBytes(soon(t), make([]byte, 100_000)), transport.ErrPeerGone)
			require.ErrorIs(t, c.Close(), transport.ErrPeerGone)
		})
	}
}

func TestASenderThatIsStuckLearnsThatItsPeerIsGone(t *testing.T) {
	for _, l := range links() {
		t.Run(l.name, func(t *testing.T) {
			t.Parallel()
			c, peer := l.withStuckPeer(t)
			sent := background(t, func() error { return c.SendBytes(soon(t), huge()) })
			readN(t, peer, 10)
			socket(peer).Close()
			require.ErrorIs(t, sent(), transport.ErrPeerGone)
		})
	}
}

// failing is a connection whose reads and writes fail in a way that is hard to make on a real one.
type failing struct {
	net.Conn
	err error
}

func (f failing) Read([]byte) (int, error) {
	return 0, &net.OpError{Op: "read", Net: "tcp", Err: f.err}
}
func (f failing) Write([]byte) (int, error) {
	return 0, &net.OpError{Op: "write", Net: "tcp", Err: f.err}
}

func TestEveryWayInWhichAPeerCanBeGoneIsErrPeerGone(t *testing.T) {
	for _, cause := range append([]error{io.EOF, io.ErrUnexpectedEOF, io.ErrClosedPipe}, resets...) {
		t.Run(cause.Error(), func(t *testing.T) {
			x, _ := pipeLink(t)
			c := open(t, failing{x, os.NewSyscallError("call", cause)}, transport.Config{})
			assert.ErrorIs(t, c.Recv(soon(t), new(any)), transport.ErrPeerGone)
			assert.ErrorIs(t, c.Send(soon(t), 1), transport.ErrPeerGone)
		})
	}
	t.Run("any other failure is told as it is", func(t *testing.T) {
		x, _ := pipeLink(t)
		c := open(t, failing{x, errCause}, transport.Config{})
		for range 2 {
			assert.ErrorIs(t, c.Recv(soon(t), new(any)), errCause)
			assert.ErrorIs(t, c.Send(soon(t), 1), errCause)
		}
	})
}

func TestCloseIsOnceAndEverythingAfterItIsErrClosed(t *testing.T) {
	for _, l := range links() {
		for name, end := range map[string]func(c *transport.Channel) error{
			"Close":     func(c *transport.Channel) error { return c.Close() },
			"CloseWith": func(c *transport.Channel) error { return c.CloseWith(context.Background(), 1, "x") },
			"Abort":     func(c *transport.Channel) error { return c.Abort() },
		} {
			t.Run(l.name+", "+name, func(t *testing.T) {
				c, peer := l.withRawPeer(t, transport.Config{})
				go io.Copy(io.Discard, peer)
				require.NoError(t, end(c))
				ctx := soon(t)
				_, recvErr := c.RecvBytes(ctx, nil)
				_, frameErr := c.ReadFrame(ctx)
				_, pingErr := c.Ping(ctx)
				for _, err := range []error{
					c.Close(), c.CloseWith(ctx, 0, ""), c.Send(ctx, 1), c.SendBytes(ctx, nil),
					c.SendBytes(ctx, make([]byte, 100_000)), c.WriteFrames(ctx, transport.Cancel{}.Frame()),
					c.Recv(ctx, new(any)), recvErr, frameErr, pingErr,
				} {
					assert.ErrorIs(t, err, transport.ErrClosed)
					assert.ErrorIs(t, err, net.ErrClosed)
					var typed *transport.Error
					assert.ErrorAs(t, err, &typed)
				}
				assert.NoError(t, c.Abort())
			})
		}
	}
}

func TestCloseWakesWhoeverIsBlocked(t *testing.T) {
	for _, l := range append(links(), link{"TLS over a Unix socket", tlsUnixLink}) {
		for name, end := range map[string]func(c *transport.Channel) error{
			"Close":             (*transport.Channel).Close,
			"CloseWith a bound": closeSoon,
			"Abort":             (*transport.Channel).Abort,
			"Abort while Close waits": func(c *transport.Channel) error {
				go c.Close()
				return c.Abort()
			},
		} {
			t.Run(l.name+", "+name, func(t *testing.T) {
				t.Parallel()
				c, peer := l.withStuckPeer(t)
				var results []func() error
				for range 3 { // one has the turn, two wait for it
					results = append(results,
						background(t, func() error { return c.SendBytes(context.Background(), huge()) }),
						background(t, func() error { return c.Recv(context.Background(), new(any)) }),
						background(t, func() error { _, err := c.Ping(context.Background()); return err }),
					)
				}
				readN(t, peer, 1<<20) // longer than a ping: a sender is in the middle of its frame
				start := time.Now()
				err := end(c)
				assert.Less(t, time.Since(start), patience)
				if name[:5] == "Close" {
					require.Error(t, err, "there was no goodbye")
				} else {
					require.NoError(t, err)
				}
				for _, result := range results {
					require.ErrorIs(t, result(), transport.ErrClosed)
				}
			})
		}
	}
}

func closeSoon(c *transport.Channel) error {
	ctx, cancel := context.WithTimeoutCause(context.Background(), 20*time.Millisecond, errCause)
	defer cancel()
	err := c.CloseWith(ctx, 0, "")
	if err != nil && !errors.Is(err, errCause) {
		return nil // let the test fail
	}
	return err
}

func TestCloseIsBoundedWhenThePeerReadsNothingAndNobodySends(t *testing.T) {
	for _, l := range append(links(), link{"TLS over a Unix socket", tlsUnixLink}) {
		for name, end := range map[string]func(c *transport.Channel) error{
			"Close":             (*transport.Channel).Close,
			"CloseWith a bound": closeSoon,
			"Abort":             (*transport.Channel).Abort,
		} {
			t.Run(l.name+", "+name, func(t *testing.T) {
				t.Parallel()
				x, y := l.connect(t)
				if s, ok := socket(x).(interface{ SetWriteBuffer(int) error }); ok && s != nil {
					fill(t, socket(x), socket(y)) // below TLS, which sees a full socket
				}
				c := open(t, x, transport.Config{})
				start := time.Now()
				end(c)
				assert.Less(t, time.Since(start), patience)
			})
		}
	}
}

// stalling lets some writes through, and then none until it is closed.
type stalling struct {
	net.Conn
	left   atomic.Int64
	closed chan struct{}
	once   sync.Once
}

func (s *stalling) Write(p []byte) (int, error) {
	if s.left.Add(-1) < 0 {
		<-s.closed
	}
	return s.Conn.Write(p)
}

func (s *stalling) Close() error {
	s.once.Do(func() { close(s.closed) })
	return s.Conn.Close()
}

func TestCloseIsBoundedWhenTLSCannotTakeItsLeave(t *testing.T) {
	client, server := tcpLink(t)
	stalled := &stalling{Conn: client, closed: make(chan struct{})}
	stalled.left.Store(1 << 20)
	x, y := encrypted(t, stalled, server)
	c, peer := open(t, x, transport.Config{}), open(t, y, transport.Config{})
	stalled.left.Store(1) // the goodbye, but not TLS's own
	start := time.Now()
	require.NoError(t, c.Close())
	assert.Less(t, time.Since(start), patience)
	require.ErrorIs(t, peer.Recv(soon(t), new(any)), io.EOF)
}

func TestCloseWithAnEndedContextSaysThatThereWasNoGoodbye(t *testing.T) {
	a, b := sockets[0].channels(t)
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(errCause)
	err := a.CloseWith(ctx, 0, "")
	require.ErrorIs(t, err, errCause)
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorIs(t, b.Recv(soon(t), new(any)), transport.ErrPeerGone)
}

func TestCloseAfterAProtocolErrorTellsNoOrderlyEnd(t *testing.T) {
	for _, status := range []int{0, 1} {
		near, far := net.Pipe()
		c, peer := transport.New(near, transport.Config{}), transport.New(far, transport.Config{})
		sent := make(chan error, 1)
		go func() { sent <- peer.WriteFrames(t.Context(), transport.Frame{Kind: transport.KindHello}) }()
		require.ErrorIs(t, c.Recv(t.Context(), new(any)), transport.ErrProtocol)
		require.NoError(t, <-sent)
		closed := make(chan error, 1)
		go func() { closed <- c.CloseWith(t.Context(), status, "") }()
		err := peer.Recv(t.Context(), new(any))
		require.NoError(t, <-closed)
		if status == 0 {
			assert.ErrorIs(t, err, transport.ErrPeerGone)
		} else {
			assert.ErrorAs(t, err, new(*transport.GoodbyeError), "a status that says that something went wrong is true")
		}
		peer.Abort()
	}
}

func TestAnAbortIsACrashForThePeer(t *testing.T) {
	for _, l := range links() {
		t.Run(l.name, func(t *testing.T) {
			a, b := l.channels(t)
			require.NoError(t, a.Abort())
			require.ErrorIs(t, b.Recv(soon(t), new(any)), transport.ErrPeerGone)
		})
	}
}

func TestManyMayCloseAtOnce(t *testing.T) {
	for _, l := range links() {
		t.Run(l.name, func(t *testing.T) {
			for range 20 {
				a, b := l.channels(t)
				var wg sync.WaitGroup
				for _, c := range []*transport.Channel{a, b} {
					for i := range 4 {
						wg.Go(func() { c.Recv(context.Background(), new(any)) })
						wg.Go(func() { c.Send(context.Background(), 1) })
						wg.Go(func() {
							if i == 3 {
								c.Abort()
							} else {
								c.Close()
							}
						})
					}
				}
				wg.Wait()
			}
		})
	}
}

func TestAPendingCancellationWinsOverTheEndOfTheStream(t *testing.T) {
	for round := range 200 {
		c, peer := sockets[0].withRawPeer(t, transport.Config{})
		ctx, cancel := context.WithCancel(context.Background())
		received := background(t, func() error { return c.Recv(ctx, new(any)) })
		cancel()
		peer.Close()
		require.ErrorIs(t, received(), context.Canceled, "round %d", round)
		require.ErrorIs(t, c.Recv(soon(t), new(any)), transport.ErrPeerGone)
		c.Abort()
	}
}

func TestAddressesAndTheConnectionAreTheConnections(t *testing.T) {
	x, _ := tcpLink(t)
	c := open(t, x, transport.Config{})
	assert.Equal(t, x.LocalAddr(), c.LocalAddr())
	assert.Equal(t, x.RemoteAddr(), c.RemoteAddr())
	assert.Same(t, x, c.NetConn())
}

func TestErrorsSayWhatHappened(t *testing.T) {
	for want, err := range map[string]error{
		"transport: close: channel closed: use of closed network connection":                  &transport.Error{Op: "close", Err: transport.ErrClosed},
		"peer said goodbye with status 0":                                                     &transport.GoodbyeError{},
		"cannot encode chan int as CBOR; nothing was written: why":                            &transport.EncodeError{Type: "chan int", Err: errors.New("why")},
		"the next message is of kind message, not raw; it stays until it is received as such": &transport.KindError{Got: transport.KindMessage, Want: transport.KindRaw},
	} {
		assert.EqualError(t, err, want)
	}
	assert.Equal(t, "ping", fmt.Sprint(transport.KindPing))
	assert.Equal(t, "kind 0x00", fmt.Sprint(transport.Kind(0)))
	assert.Equal(t, "kind 0xff", fmt.Sprint(transport.Kind(0xff)))
}

func TestAGoodbyeArrivesWhateverItsReasonIsMadeOf(t *testing.T) {
	for _, reason := range []string{strings.Repeat("long ", 10_000), "not UTF-8: \xff", strings.Repeat("ä", 2048) + "ö"} {
		a, b := sockets[0].channels(t)
		require.NoError(t, a.CloseWith(soon(t), 3, reason))
		var bye *transport.GoodbyeError
		require.ErrorAs(t, b.Recv(soon(t), new(any)), &bye)
		require.Equal(t, 3, bye.Status)
		require.NotEmpty(t, bye.Reason)
	}
}

func TestADeadlineFromBeforeTheChannelIsForgotten(t *testing.T) {
	x, y := sockets[0].connect(t)
	require.NoError(t, x.SetDeadline(time.Now().Add(-time.Second)))
	a, b := open(t, x, transport.Config{}), open(t, y, transport.Config{})
	require.NoError(t, a.Send(soon(t), 1))
	require.NoError(t, b.Send(soon(t), 1))
	require.NoError(t, a.Recv(soon(t), new(any)))
}
