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
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/internal/frame"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/transport"
)

// dropAll receives like the peer of a closing channel.
func dropAll(peer net.Conn) {
	io.Copy(io.Discard, peer)
	peer.Close()
}

func TestClose_ComesAfterAllMessages(t *testing.T) {
	for _, l := range links() {
		t.Run(l.name, func(t *testing.T) {
			t.Parallel()
			a, b := l.channels(t)
			closed := testkit.Background(t, func() error {
				for i := range 50 {
					if err := a.Send(testkit.Context(t), i); err != nil {
						return err
					}
				}
				return a.CloseWith(testkit.Context(t), 7, "all done")
			})
			for i := range 50 {
				var got int
				require.NoError(t, b.Recv(testkit.Context(t), &got))
				require.Equal(t, i, got)
			}
			for range 3 { // it stays so
				err := b.Recv(testkit.Context(t), new(any))
				var bye *transport.GoodbyeError
				require.ErrorAs(t, err, &bye)
				assert.Equal(t, transport.GoodbyeError{Status: 7, Reason: "all done"}, *bye)
				assert.ErrorIs(t, err, io.EOF)
				assert.NotErrorIs(t, err, transport.ErrPeerGone)
				assert.NotErrorIs(t, err, transport.ErrChannelClosed)
				assert.EqualError(t, err,
					"transport: receive: peer said goodbye with status 7: all done")
				_, err = b.RecvBytes(testkit.Context(t), nil)
				assert.ErrorIs(t, err, io.EOF)
			}
			require.NoError(t, closed())
			assert.NoError(t, b.Close(), "the peer has closed and needs no goodbye")
		})
	}
}

// If a socket is closed with unread input, the kernel resets the connection and drops the
// undelivered output. Close must prevent this.
func TestClose_UnreadInputLosesNothing(t *testing.T) {
	const messages = 130 // of 1000 bytes: too many for b's TCP buffer, so a's kernel keeps some
	for _, l := range append([]link{{"TLS", tlsLink}}, sockets...) {
		for name, test := range map[string]struct{ before, during int }{
			"input before the close": {20, 0},
			"input during the close": {0, 20},
		} {
			t.Run(l.name+", "+name, func(t *testing.T) {
				t.Parallel()
				x, y := l.connect(t)
				require.NoError(t,
					socket(x).(interface{ SetWriteBuffer(int) error }).SetWriteBuffer(
						messages*1500))
				a, b := open(t, x, transport.Config{}), open(t, y, transport.Config{})
				for range test.before {
					require.NoError(t, b.SendBytes(testkit.Context(t), make([]byte, 1000)))
				}
				for i := range messages {
					require.NoError(t, a.SendBytes(testkit.Context(t), pattern(i, 1000)))
				}
				closed := testkit.Background(t, func() error {
					return a.CloseWith(testkit.Context(t), 3, "")
				})
				for range test.during {
					for range 100 {
						runtime.Gosched()
					}
					b.SendBytes(testkit.Context(t), make([]byte, 1000)) // may fail
				}
				buf := make([]byte, 1000)
				for i := range messages {
					_, err := b.RecvBytes(testkit.Context(t), buf)
					require.NoError(t, err, "message %d", i)
					require.True(t, bytes.Equal(pattern(i, 1000), buf))
				}
				var bye *transport.GoodbyeError
				require.ErrorAs(t, b.Recv(testkit.Context(t), new(any)), &bye)
				assert.Equal(t, 3, bye.Status)
				require.NoError(t, closed())
			})
		}
	}
}

// Close drops unread input. A receive under way must not see the gap.
func TestClose_DuringAReceive(t *testing.T) {
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
				flood := frameOf(frame.KindRaw, want...)
				go dropAll(peer)
				go func() {
					for {
						if _, err := peer.Write(flood); err != nil {
							return
						}
					}
				}()
				first := make(chan struct{})
				received := testkit.Background(t, func() error {
					buf := make([]byte, len(want))
					for i := 0; ; i++ {
						if i == round%5 {
							close(first)
						}
						if _, err := c.RecvBytes(testkit.Context(t), buf); err != nil {
							return err
						}
						if !bytes.Equal(want, buf) {
							return errors.New("a message with a hole")
						}
					}
				})
				<-first
				require.NoError(t, c.Close())
				require.ErrorIs(t, received(), transport.ErrChannelClosed)
				peer.Close()
			}
		})
	}
}

func TestPeerGone_Crash(t *testing.T) {
	for _, l := range links() {
		for name, test := range map[string]struct {
			before []byte
			middle bool
		}{
			"after nothing":   {nil, false},
			"after a message": {frameOf(frame.KindMessage, 1), false},
			"in a header":     {[]byte{9, 0}, true},
			"after a header":  {[]byte{9, 0, 0, 0, 1}, true},
			"in a body":       {[]byte{9, 0, 0, 0, 1, 1, 1}, true},
			"in a large body": {append([]byte{0, 0, 2, 0, 1}, make([]byte, 70_000)...),
				true},
			"in a frame that is skipped": {append([]byte{0, 0, 2, 0, 0x80},
				make([]byte, 70_000)...), true},
			"in a control frame":          {[]byte{9, 0, 0, 0, 0x21, 0xa1}, true},
			"in a header after a message": {append(frameOf(frame.KindMessage, 1), 5), true},
		} {
			t.Run(l.name+", "+name, func(t *testing.T) {
				c, peer := l.withRawPeer(t, transport.Config{})
				go func() {
					peer.Write(test.before)
					socket(peer).Close()
				}()
				err := c.Recv(testkit.Context(t), new(any))
				if err == nil {
					err = c.Recv(testkit.Context(t), new(any))
				}
				require.ErrorIs(t, err, transport.ErrPeerGone)
				assert.NotErrorIs(t, err, io.EOF)
				assert.NotErrorIs(t, err, syscall.ECONNRESET, "the peer had read everything")
				if want := "in the middle of a frame"; test.middle {
					assert.Contains(t, err.Error(), want)
				} else {
					assert.NotContains(t, err.Error(), want)
				}
				assert.ErrorIs(t, c.Recv(testkit.Context(t), new(any)),
					transport.ErrPeerGone, "it stays so")
			})
		}
	}
}

func TestPeerGone_Reset(t *testing.T) {
	t.Run("TCP with no linger", func(t *testing.T) {
		x, y := testkit.TCP(t)
		c := open(t, x, transport.Config{})
		received := testkit.Background(t, func() error {
			return c.Recv(testkit.Context(t), new(any))
		})
		require.NoError(t, y.(*net.TCPConn).SetLinger(0))
		require.NoError(t, y.Close())
		require.ErrorIs(t, received(), transport.ErrPeerGone)
		require.ErrorIs(t, c.Send(testkit.Context(t), 1), transport.ErrPeerGone)
	})
	for _, l := range sockets {
		t.Run(l.name+" with unread input", func(t *testing.T) {
			c, peer := l.withRawPeer(t, transport.Config{})
			require.NoError(t, c.Send(testkit.Context(t), "is never read"))
			require.NoError(t, peer.Close())
			err := c.Recv(testkit.Context(t), new(any))
			require.ErrorIs(t, err, transport.ErrPeerGone)
			if runtime.GOOS == "linux" {
				require.ErrorIs(t, err, syscall.ECONNRESET)
			}
		})
	}
}

func TestPeerGone_Send(t *testing.T) {
	for _, l := range links() {
		t.Run(l.name, func(t *testing.T) {
			c, peer := l.withRawPeer(t, transport.Config{})
			socket(peer).Close()
			var err error
			for err == nil { // the first ones succeed over TCP
				err = c.Send(testkit.Context(t), 1)
			}
			require.ErrorIs(t, err, transport.ErrPeerGone)
			require.ErrorIs(t, c.Send(testkit.Context(t), 1), transport.ErrPeerGone, "it stays so")
			require.ErrorIs(t,
				c.SendBytes(testkit.Context(t), make([]byte, 100_000)), transport.ErrPeerGone)
			require.ErrorIs(t, c.Close(), transport.ErrPeerGone)
		})
	}
}

func TestPeerGone_BlockedSend(t *testing.T) {
	for _, l := range links() {
		t.Run(l.name, func(t *testing.T) {
			t.Parallel()
			c, peer := l.withStuckPeer(t)
			sent := testkit.Background(t, func() error {
				return c.SendBytes(testkit.Context(t), huge())
			})
			readN(t, peer, 10)
			socket(peer).Close()
			require.ErrorIs(t, sent(), transport.ErrPeerGone)
		})
	}
}

// failing is a connection on which each call fails.
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

func TestPeerGone_EveryErrorOfTheSystem(t *testing.T) {
	for _, cause := range append([]error{io.EOF, io.ErrUnexpectedEOF, io.ErrClosedPipe},
		resets...) {
		t.Run(cause.Error(), func(t *testing.T) {
			x, _ := testkit.Pipe(t)
			c := open(t, failing{x, os.NewSyscallError("call", cause)}, transport.Config{})
			assert.ErrorIs(t, c.Recv(testkit.Context(t), new(any)), transport.ErrPeerGone)
			assert.ErrorIs(t, c.Send(testkit.Context(t), 1), transport.ErrPeerGone)
		})
	}
	for _, cause := range silences {
		t.Run(cause.Error(), func(t *testing.T) {
			x, _ := testkit.Pipe(t)
			c := open(t, failing{x, os.NewSyscallError("call", cause)}, transport.Config{})
			for _, err := range []error{
				c.Recv(testkit.Context(t), new(any)), c.Send(testkit.Context(t), 1),
			} {
				assert.ErrorIs(t, err, transport.ErrPeerGone)
				assert.ErrorIs(t, err, syscall.ETIMEDOUT)
			}
		})
	}
	t.Run("any other error stays as it is", func(t *testing.T) {
		x, _ := testkit.Pipe(t)
		c := open(t, failing{x, errCause}, transport.Config{})
		for range 2 {
			assert.ErrorIs(t, c.Recv(testkit.Context(t), new(any)), errCause)
			assert.ErrorIs(t, c.Send(testkit.Context(t), 1), errCause)
		}
	})
}

func TestClose_EverythingAfterItFails(t *testing.T) {
	for _, l := range links() {
		for name, end := range map[string]func(c *transport.Channel) error{
			"Close": func(c *transport.Channel) error { return c.Close() },
			"CloseWith": func(c *transport.Channel) error {
				return c.CloseWith(context.Background(), 1, "x")
			},
			"Abort": func(c *transport.Channel) error { return c.Abort() },
		} {
			t.Run(l.name+", "+name, func(t *testing.T) {
				c, peer := l.withRawPeer(t, transport.Config{})
				go dropAll(peer)
				require.NoError(t, end(c))
				ctx := testkit.Context(t)
				_, recvErr := c.RecvBytes(ctx, nil)
				_, frameErr := frames(c).Read(ctx)
				_, pingErr := c.Ping(ctx)
				for _, err := range []error{
					c.Close(), c.CloseWith(ctx, 0, ""), c.Send(ctx, 1), c.SendBytes(ctx, nil),
					c.SendBytes(ctx, make([]byte, 100_000)),
					frames(c).Write(ctx, frame.Cancel{}.Frame()),
					c.Recv(ctx, new(any)), recvErr, frameErr, pingErr,
				} {
					assert.ErrorIs(t, err, transport.ErrChannelClosed)
					assert.ErrorIs(t, err, net.ErrClosed)
					var typed *transport.Error
					assert.ErrorAs(t, err, &typed)
				}
				assert.NoError(t, c.Abort())
			})
		}
	}
}

func TestClose_WakesBlockedCalls(t *testing.T) {
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
				for range 3 { // one has the turn, and two wait
					results = append(results,
						testkit.Background(t, func() error {
							return c.SendBytes(context.Background(), huge())
						}),
						testkit.Background(t, func() error {
							return c.Recv(context.Background(), new(any))
						}),
						testkit.Background(t, func() error {
							_, err := c.Ping(context.Background())
							return err
						}),
					)
				}
				readN(t, peer, 1<<20) // more than the pings, so a send is within its frame
				start := time.Now()
				err := end(c)
				assert.Less(t, time.Since(start), testkit.Patience)
				if name[:5] == "Close" {
					require.Error(t, err, "there was no goodbye")
				} else {
					require.NoError(t, err)
				}
				for _, result := range results {
					require.ErrorIs(t, result(), transport.ErrChannelClosed)
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
		return nil // makes the test fail
	}
	return err
}

func TestClose_IsBoundedWhenThePeerDoesNotRead(t *testing.T) {
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
					fill(t, socket(x), socket(y)) // under TLS
				}
				c := open(t, x, transport.Config{})
				start := time.Now()
				end(c)
				assert.Less(t, time.Since(start), testkit.Patience)
			})
		}
	}
}

// stalling is a connection whose writes block from some number on, until it is closed.
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

func TestClose_IsBoundedWhenTLSCannotSendItsAlert(t *testing.T) {
	client, server := testkit.TCP(t)
	stalled := &stalling{Conn: client, closed: make(chan struct{})}
	stalled.left.Store(1 << 20)
	x, y := encrypted(t, stalled, server)
	c, peer := open(t, x, transport.Config{}), open(t, y, transport.Config{})
	stalled.left.Store(1) // for the goodbye, but not for the alert of TLS
	start := time.Now()
	require.NoError(t, c.Close())
	assert.Less(t, time.Since(start), testkit.Patience)
	require.ErrorIs(t, peer.Recv(testkit.Context(t), new(any)), io.EOF)
}

func TestClose_ContextHasEnded(t *testing.T) {
	a, b := sockets[0].channels(t)
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(errCause)
	err := a.CloseWith(ctx, 0, "")
	require.ErrorIs(t, err, errCause)
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorIs(t, b.Recv(testkit.Context(t), new(any)), transport.ErrPeerGone)
}

func TestClose_SendsNoGoodbyeAfterAProtocolError(t *testing.T) {
	for _, status := range []int{0, 1} {
		near, far := net.Pipe()
		c, peer := transport.New(near, transport.Config{}), transport.New(far, transport.Config{})
		sent := make(chan error, 1)
		go func() { sent <- frames(peer).Write(t.Context(), frame.Frame{Kind: frame.KindHello}) }()
		require.ErrorIs(t, c.Recv(t.Context(), new(any)), transport.ErrProtocol)
		require.NoError(t, <-sent)
		closed := make(chan error, 1)
		go func() { closed <- c.CloseWith(t.Context(), status, "") }()
		err := peer.Recv(t.Context(), new(any))
		require.NoError(t, <-closed)
		if status == 0 {
			assert.ErrorIs(t, err, transport.ErrPeerGone)
		} else {
			assert.ErrorAs(t, err, new(*transport.GoodbyeError), "a status other than 0 is sent")
		}
		peer.Abort()
	}
}

func TestAbort_IsACrashForThePeer(t *testing.T) {
	for _, l := range links() {
		t.Run(l.name, func(t *testing.T) {
			a, b := l.channels(t)
			require.NoError(t, a.Abort())
			require.ErrorIs(t, b.Recv(testkit.Context(t), new(any)), transport.ErrPeerGone)
		})
	}
}

func TestClose_ManyAtOnce(t *testing.T) {
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

func TestPeerGone_EndedContextComesFirst(t *testing.T) {
	for round := range 200 {
		c, peer := sockets[0].withRawPeer(t, transport.Config{})
		ctx, cancel := context.WithCancel(context.Background())
		received := testkit.Background(t, func() error { return c.Recv(ctx, new(any)) })
		cancel()
		peer.Close()
		require.ErrorIs(t, received(), context.Canceled, "round %d", round)
		require.ErrorIs(t, c.Recv(testkit.Context(t), new(any)), transport.ErrPeerGone)
		c.Abort()
	}
}

func TestNetConn_IsTheConnection(t *testing.T) {
	x, _ := testkit.TCP(t)
	c := open(t, x, transport.Config{})
	assert.Same(t, x, c.NetConn())
}

func TestError_Texts(t *testing.T) {
	for want, err := range map[string]error{
		"transport: close: channel closed: use of closed network connection": &transport.Error{
			Op: "close", Err: transport.ErrChannelClosed},
		"peer said goodbye with status 0": &transport.GoodbyeError{},
		"cannot encode chan int as CBOR; nothing was written: why": &transport.EncodeError{
			Type: "chan int", Err: errors.New("why")},
	} {
		assert.EqualError(t, err, want)
	}
	assert.Equal(t, "ping", fmt.Sprint(frame.KindPing))
	assert.Equal(t, "kind 0x00", fmt.Sprint(frame.Kind(0)))
	assert.Equal(t, "kind 0xff", fmt.Sprint(frame.Kind(0xff)))
}

func TestClose_AnyReasonArrives(t *testing.T) {
	for _, reason := range []string{strings.Repeat("long ", 10_000), "not UTF-8: \xff",
		strings.Repeat("ä", 2048) + "ö"} {
		a, b := sockets[0].channels(t)
		require.NoError(t, a.CloseWith(testkit.Context(t), 3, reason))
		var bye *transport.GoodbyeError
		require.ErrorAs(t, b.Recv(testkit.Context(t), new(any)), &bye)
		require.Equal(t, 3, bye.Status)
		require.NotEmpty(t, bye.Reason)
	}
}

func TestDeadline_FromBeforeTheChannelIsRemoved(t *testing.T) {
	x, y := sockets[0].connect(t)
	require.NoError(t, x.SetDeadline(time.Now().Add(-time.Second)))
	a, b := open(t, x, transport.Config{}), open(t, y, transport.Config{})
	require.NoError(t, a.Send(testkit.Context(t), 1))
	require.NoError(t, b.Send(testkit.Context(t), 1))
	require.NoError(t, a.Recv(testkit.Context(t), new(any)))
}

// After the end of a receive's context, Close does not wait for its timeout. The
// context comes several times, so that it stays registered.
func TestClose_AfterAnEndedReceive(t *testing.T) {
	defer transport.SetCloseTimeout(2 * testkit.Patience)()
	for _, l := range links() {
		t.Run(l.name, func(t *testing.T) {
			a, b := l.channels(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			received := testkit.Background(t, func() error {
				for {
					if err := a.Recv(ctx, new(int)); err != nil {
						return err
					}
					if err := a.Send(t.Context(), 0); err != nil {
						return err
					}
				}
			})
			for range 5 {
				require.NoError(t, b.Send(t.Context(), 0))
				require.NoError(t, b.Recv(t.Context(), new(int)))
			}
			cancel()
			require.ErrorIs(t, received(), context.Canceled)
			closed := testkit.Background(t, a.Close)
			require.ErrorAs(t, b.Recv(testkit.Context(t), new(int)), new(*transport.GoodbyeError))
			require.NoError(t, closed())
		})
	}
}
