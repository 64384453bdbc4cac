//go:build linux || darwin

package handshake_test

import (
	"net"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/transport"
)

// What a child's own process can do in place of a good hello, and what the parent is to make of it.
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
		conn.Write(frame(transport.KindHello, make([]byte, 100))[:50])
		conn.Close()
	}, handshake.PhaseHello, transport.ErrPeerGone},
	"it says something else": {func(t *testing.T, ticket handshake.Ticket) {
		requireRefused(t, say(t, ticket.Addr, frame(transport.KindMessage, []byte{0})))
	}, handshake.PhaseHello, transport.ErrProtocol},
	"it announces too much": {func(t *testing.T, ticket handshake.Ticket) {
		requireRefused(t, say(t, ticket.Addr, []byte{255, 255, 255, 255, 16}))
	}, handshake.PhaseHello, transport.ErrProtocol},
	"it has an id that nobody knows": {func(t *testing.T, ticket handshake.Ticket) {
		ticket.ID = handshake.NewID()
		requireJoinRefused(t, ticket)
	}, handshake.PhaseAuth, handshake.ErrUnknownPeer},
}

func TestTheChildsOwnProcessThatSaysNoHelloEndsTheWait(t *testing.T) {
	for name, c := range noHellos {
		for _, early := range []bool{false, true} {
			t.Run(name+map[bool]string{true: ", before its pid is known"}[early], func(t *testing.T) {
				l := overUnix(t, handshake.ListenerConfig{})
				x, ticket := expect(t, l, nil)
				if early {
					c.do(t, ticket)
					eventually(t, func() bool { return l.Held().Pending == 0 }, "it is read")
				}
				x.SetPID(os.Getpid())
				if !early {
					c.do(t, ticket)
				}
				_, err := x.WaitForPeer(testContext(t))
				require.ErrorIs(t, err, c.is)
				requirePhase(t, c.phase, err)
			})
		}
	}
}

func TestOnceAHelloWasAcceptedOtherConnectionsDoNoHarm(t *testing.T) {
	for name, c := range noHellos {
		t.Run(name, func(t *testing.T) {
			l := overUnix(t, handshake.ListenerConfig{})
			x, ticket := expect(t, l, nil)
			x.SetPID(os.Getpid())
			j := join(t, ticket, handshake.JoinConfig{})
			c.do(t, ticket)
			x.Hear(testContext(t))
			require.NoError(t, j.Ready(testContext(t), handshake.Timings{}))
			wait(t, x)
		})
	}
}

func TestPhasesAreToldInOrderAlsoWhenSetPIDTellsTheFirst(t *testing.T) {
	l := overUnix(t, handshake.ListenerConfig{})
	ticket := handshake.Ticket{Addr: l.Addr(), ID: handshake.NewID(), Secret: handshake.NewSecret()}
	helloEntered, joined := make(chan struct{}), make(chan struct{})
	var mu sync.Mutex // guards told
	var told []handshake.Phase
	x, err := l.Expect(handshake.Expectation{ID: ticket.ID, Secret: ticket.Secret, OnPhase: func(p handshake.Phase, _ time.Time) {
		if p == handshake.PhaseHello {
			close(helloEntered)
			select { // slow to write it down
			case <-joined:
			case <-time.After(100 * time.Millisecond):
			}
		}
		mu.Lock()
		defer mu.Unlock()
		told = append(told, p)
	}})
	require.NoError(t, err)
	conn := dial(t, ticket.Addr)
	x.Hear(testContext(t)) // it has connected, and has not said hello
	go x.SetPID(os.Getpid())
	<-helloEntered
	j, err := handshake.Join(testContext(t), conn, ticket, handshake.JoinConfig{})
	require.NoError(t, err)
	close(joined)
	require.NoError(t, j.Ready(testContext(t), handshake.Timings{}))
	wait(t, x)
	mu.Lock()
	defer mu.Unlock()
	require.Equal(t, []handshake.Phase{handshake.PhaseHello, handshake.PhaseAuth, handshake.PhaseSpec, handshake.PhaseReady}, told)
}

func TestWhatAProcessSaidIsHeard(t *testing.T) {
	overNetworks(t, func(t *testing.T, n network) {
		l := listen(t, n, handshake.ListenerConfig{})
		for range 100 {
			x, ticket := expect(t, l, nil)
			conn := dial(t, ticket.Addr)
			said := func() { conn.Close() } // as the end of its process does
			_, err := handshake.Join(testContext(t), conn, ticket, handshake.JoinConfig{Meanwhile: said})
			require.Error(t, err)
			x.Hear(testContext(t))
			select {
			case <-x.Done():
				_, err := x.WaitForPeer(testContext(t))
				requirePhase(t, handshake.PhaseSpec, err)
			default:
				require.Fail(t, "it is not heard")
			}
		}
	})
}

func TestNobodyWaitsForTheSilent(t *testing.T) {
	overNetworks(t, func(t *testing.T, n network) {
		l := listen(t, n, handshake.ListenerConfig{HelloTimeout: 2 * patience})
		stranger := dial(t, l.Addr())
		x, ticket := expect(t, l, nil)
		j := join(t, ticket, handshake.JoinConfig{})
		ctx := testContext(t)
		x.Hear(ctx) // whose connections say nothing, and are open
		require.NoError(t, ctx.Err())
		for conn, kind := range map[net.Conn]transport.Kind{stranger: transport.KindHello, j.Channel.NetConn(): transport.KindReady} {
			for range 5 { // who fall silent in the middle of a frame, after there was something to read for a while
				_, err := conn.Write(frame(kind, make([]byte, 60_000))[:5])
				require.NoError(t, err)
				said := make(chan struct{})
				go func() {
					defer close(said)
					for range 2000 {
						conn.Write([]byte{0})
					}
				}()
				x.Hear(ctx)
				require.NoError(t, ctx.Err())
				<-said
			}
		}
		require.NoError(t, j.Channel.Abort())
		x.Hear(ctx)
		select {
		case <-x.Done():
		default:
			require.Fail(t, "the end was not heard")
		}
	})
}

func TestWhetherThereIsInputIsKnownAlsoWhenSignalsCome(t *testing.T) {
	overNetworks(t, func(t *testing.T, n network) {
		conn, _ := n.ends(t)
		eventually(t, func() bool { yes, _ := handshake.HasInput(conn); return !yes }, "nothing is left to read")
		stop, stopped := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(stopped)
			for stats := new(runtime.MemStats); ; { // has all goroutines stop, by a signal if they run
				select {
				case <-stop:
					return
				default:
					runtime.ReadMemStats(stats)
				}
			}
		}()
		unknown, input := 0, 0
		for range 300_000 {
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
