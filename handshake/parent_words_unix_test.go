//go:build linux || darwin

package handshake_test

import (
	"context"
	"net"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/internal/access"
	"github.com/spawnwire/spawnwire/internal/frame"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/transport"
)

// noHellos are actions of a child's own process instead of a good hello, and the
// errors reported by the parent.
var noHellos = map[string]struct {
	do    func(t *testing.T, ticket handshake.Ticket)
	phase handshake.Phase
	is    error
}{
	"it closes": {func(t *testing.T, ticket handshake.Ticket) {
		dial(t, ticket.Addr).Close()
	}, handshake.PhaseHello, transport.ErrPeerGone},
	"it closes in the middle of its hello": {func(t *testing.T, ticket handshake.Ticket) {
		conn := dial(t, ticket.Addr)
		conn.Write(frameOf(frame.KindHello, make([]byte, 100))[:50])
		conn.Close()
	}, handshake.PhaseHello, transport.ErrPeerGone},
	"it sends another frame": {func(t *testing.T, ticket handshake.Ticket) {
		requireRefused(t, say(t, ticket.Addr, frameOf(frame.KindMessage, []byte{0})))
	}, handshake.PhaseHello, transport.ErrProtocol},
	"it announces too much": {func(t *testing.T, ticket handshake.Ticket) {
		requireRefused(t, say(t, ticket.Addr, []byte{255, 255, 255, 255, 16}))
	}, handshake.PhaseHello, transport.ErrProtocol},
	"it has an unknown id": {func(t *testing.T, ticket handshake.Ticket) {
		ticket.ID = handshake.NewID()
		requireJoinRefused(t, ticket)
	}, handshake.PhaseAuth, handshake.ErrUnknownPeer},
}

func TestOwnProcess_WithoutAHelloEndsTheWait(t *testing.T) {
	for name, c := range noHellos {
		for _, early := range []bool{false, true} {
			t.Run(name+map[bool]string{true: ", before its pid is known"}[early],
				func(t *testing.T) {
					l := overUnix(t, handshake.ListenerConfig{})
					x, ticket := expect(t, l, nil)
					if early {
						c.do(t, ticket)
						testkit.Eventually(t, "it is read", func() bool {
							return l.Held().Pending == 0
						})
					}
					x.SetPID(os.Getpid())
					if !early {
						c.do(t, ticket)
					}
					_, err := x.WaitForPeer(testkit.Context(t))
					require.ErrorIs(t, err, c.is)
					requirePhase(t, c.phase, err)
				})
		}
	}
}

func TestOwnProcess_MayHaveMoreConnectionsAfterItsHello(t *testing.T) {
	for name, c := range noHellos {
		t.Run(name, func(t *testing.T) {
			l := overUnix(t, handshake.ListenerConfig{})
			x, ticket := expect(t, l, nil)
			x.SetPID(os.Getpid())
			j := join(t, ticket, handshake.JoinConfig{})
			c.do(t, ticket)
			testkit.Eventually(t, "it is read", func() bool { return l.Held().Pending == 0 })
			require.NoError(t, j.Ready(testkit.Context(t), nil))
			wait(t, x)
		})
	}
}

func TestPhase_IsReportedInOrderWithALateSetPID(t *testing.T) {
	l := overUnix(t, handshake.ListenerConfig{})
	helloEntered, joined := make(chan struct{}), make(chan struct{})
	var mu sync.Mutex // guards reported
	var reported []handshake.Phase
	x, err := l.Expect(handshake.Expectation{OnPhase: func(p handshake.Phase, _ time.Time) {
		if p == handshake.PhaseHello {
			close(helloEntered)
			select { // a slow callback
			case <-joined:
			case <-time.After(100 * time.Millisecond):
			}
		}
		mu.Lock()
		defer mu.Unlock()
		reported = append(reported, p)
	}})
	require.NoError(t, err)
	t.Cleanup(x.Cancel)
	conn := dial(t, l.Addr())
	testkit.Eventually(t, "its process is noted", func() bool { return x.HasEarly(os.Getpid()) })
	go x.SetPID(os.Getpid())
	<-helloEntered
	j, err := handshake.Join(testkit.Context(t), conn, x.Ticket(), handshake.JoinConfig{})
	require.NoError(t, err)
	close(joined)
	require.NoError(t, j.Ready(testkit.Context(t), nil))
	wait(t, x)
	mu.Lock()
	defer mu.Unlock()
	require.Equal(t, []handshake.Phase{
		handshake.PhaseHello, handshake.PhaseAuth, handshake.PhaseSpec, handshake.PhaseReady,
	}, reported)
}

// dies joins, sends a failed frame and closes its connection at once, like a
// process that ends.
func dies(t *testing.T, ticket handshake.Ticket) {
	t.Helper()
	j := join(t, ticket, handshake.JoinConfig{})
	sendFrame(t, j.Channel, frame.KindFailed,
		encoded(t, fields{"phase": "ready", "code": "error", "error": "no table"}))
	require.NoError(t, j.Channel.NetConn().Close())
}

// requireRead checks that the parent has read everything sent by a child.
func requireRead(t *testing.T, x *handshake.Expected) {
	t.Helper()
	x.Internal(access.Key{}).AwaitWords(testkit.Context(t))
	select {
	case <-x.Done():
	default:
		require.Fail(t, "the child's words were not read")
	}
}

func TestWords_OfADeadChildAreRead(t *testing.T) {
	overNetworks(t, func(t *testing.T, n link) {
		l := listen(t, n, handshake.ListenerConfig{})
		for range 100 {
			x, ticket := expect(t, l, nil)
			dies(t, ticket)
			requireRead(t, x)
			_, err := x.WaitForPeer(testkit.Context(t))
			require.ErrorContains(t, err, "no table")
		}
	})
}

// The machine is loaded: many goroutines compute, and each gets its turn late.
func TestWords_OfADeadChildAreReadUnderLoad(t *testing.T) {
	stop := make(chan struct{})
	var load sync.WaitGroup
	for range 16 * runtime.GOMAXPROCS(0) {
		load.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	defer load.Wait()
	defer close(stop)
	deaths := 1
	if testkit.IsLong() {
		deaths = 5
	}
	for _, n := range networks { // one after the other, within the load
		t.Run("over "+n.name, func(t *testing.T) {
			l := listen(t, n, handshake.ListenerConfig{})
			for range deaths {
				x, ticket := expect(t, l, nil)
				dies(t, ticket)
				requireRead(t, x)
			}
		})
	}
}

// The child ends between its hello and the welcome.
func TestWords_EndRightAfterTheHelloIsSeen(t *testing.T) {
	overNetworks(t, func(t *testing.T, n link) {
		l := listen(t, n, handshake.ListenerConfig{})
		for range 100 {
			x, ticket := expect(t, l, nil)
			conn := dial(t, ticket.Addr)
			_, err := conn.Write(helloFrame(t, ticket, helloFields(ticket.ID)))
			require.NoError(t, err)
			require.NoError(t, conn.Close())
			requireRead(t, x)
			_, err = x.WaitForPeer(testkit.Context(t))
			requirePhase(t, handshake.PhaseSpec, err)
		}
	})
}

// The silent client stays connected as long as the test runs.
func TestWords_SilentClientsAreNotAwaited(t *testing.T) {
	overNetworks(t, func(t *testing.T, n link) {
		l := listen(t, n, handshake.ListenerConfig{HelloTimeout: 2 * patience})
		silent := dial(t, l.Addr())
		_, err := silent.Write(frameOf(frame.KindHello, make([]byte, 60_000))[:5])
		require.NoError(t, err)
		testkit.Eventually(t, "it is accepted and read", func() bool {
			return l.Held().Pending == 1 && !l.HasUnread()
		})
		x, _ := expect(t, l, nil)
		ctx := testkit.Context(t)
		x.Internal(access.Key{}).AwaitWords(ctx)
		require.NoError(t, ctx.Err())
	})
}

// Another process still holds the connection of the dead child open.
func TestWords_AwaitEndsWithItsContext(t *testing.T) {
	overNetworks(t, func(t *testing.T, n link) {
		l := listen(t, n, handshake.ListenerConfig{})
		x, ticket := expect(t, l, nil)
		j := join(t, ticket, handshake.JoinConfig{})
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
		defer cancel()
		x.Internal(access.Key{}).AwaitWords(ctx)
		require.ErrorIs(t, ctx.Err(), context.DeadlineExceeded)
		require.NoError(t, j.Ready(testkit.Context(t), nil))
		wait(t, x)
	})
}

func TestInput_IsKnownDespiteSignals(t *testing.T) {
	overNetworks(t, func(t *testing.T, n link) {
		conn, _ := n.ends(t)
		testkit.Eventually(t, "nothing is left to read", func() bool {
			yes, _ := handshake.HasInput(conn)
			return !yes
		})
		stop, stopped := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(stopped)
			// ReadMemStats stops all goroutines, with a signal if they are running
			for stats := new(runtime.MemStats); ; {
				select {
				case <-stop:
					return
				default:
					runtime.ReadMemStats(stats)
				}
			}
		}()
		unknown, input, looks := 0, 0, 5_000
		if testkit.IsLong() {
			looks = 50_000
		}
		for range looks {
			yes, known := handshake.HasInput(conn)
			if !known {
				unknown++
			}
			if yes {
				input++
			}
		}
		close(stop)
		<-stopped
		require.Zero(t, unknown)
		require.Zero(t, input)
	})
}

// wrappedConn is a connection type from a listener of the program.
type wrappedConn struct{ *net.UnixConn }

type wrappingListener struct{ net.Listener }

func (l wrappingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return wrappedConn{conn.(*net.UnixConn)}, nil
}

func TestOwnProcess_IsKnownOnAWrappedConnection(t *testing.T) {
	l, err := handshake.Listen(wrappingListener{listenUnix(t)}, handshake.ListenerConfig{})
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	x, ticket := expect(t, l, nil)
	x.SetPID(os.Getpid())
	dial(t, ticket.Addr)
	testkit.Eventually(t, "the kernel reports the pid", func() bool {
		return x.Phase() == handshake.PhaseHello
	})
	requireJoins(t, x, ticket)
}
