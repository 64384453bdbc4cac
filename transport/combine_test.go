package transport_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/transport"
)

// gated is a connection whose writes wait for the gate.
type gated struct {
	net.Conn
	gate   chan struct{}
	writes atomic.Int64
}

func (g *gated) Write(p []byte) (int, error) {
	<-g.gate
	g.writes.Add(1)
	return g.Conn.Write(p)
}

// awaitSenders waits until n sends are under way.
func awaitSenders(t testing.TB, c *transport.Channel, n int) {
	t.Helper()
	for start := time.Now(); c.Senders() != n; runtime.Gosched() {
		require.Less(t, time.Since(start), testkit.Patience, "%d senders, want %d", c.Senders(), n)
	}
}

func TestSenders_ShareOneWriteInTheirOrder(t *testing.T) {
	for _, l := range sockets {
		t.Run(l.name, func(t *testing.T) {
			const senders = 50
			x, y := l.connect(t)
			conn := &gated{Conn: x, gate: make(chan struct{})}
			a, b := open(t, conn, transport.Config{}), open(t, y, transport.Config{})
			var results []func() error
			for i := range senders {
				results = append(results, testkit.Background(t, func() error {
					return a.Send(testkit.Context(t), i)
				}))
				awaitSenders(t, a, i+1)
			}
			close(conn.gate)
			for i := range senders {
				var got int
				require.NoError(t, b.Recv(testkit.Context(t), &got))
				require.Equal(t, i, got)
			}
			for _, result := range results {
				require.NoError(t, result())
			}
			assert.EqualValues(t, 2, conn.writes.Load(),
				"one for the first sender, and one for all others")
		})
	}
}

// After a shared write the next one waits for its senders, so they share it too. If other
// processes use all processors, they do not, so the test has several attempts.
func TestSenders_ShareTheirNextWriteToo(t *testing.T) {
	const senders, each, most = 50, 40, 50 * 40 / 4
	var writes int64
	for range 50 {
		writes = writesOfACrowd(t, senders, each, true)
		t.Logf("%d writes for %d messages", writes, senders*each)
		if writes < most {
			return
		}
	}
	require.Less(t, writes, int64(most))
}

// writesOfACrowd returns the number of writes for some messages of each sender. If together
// is set, all senders come before the first write.
func writesOfACrowd(t *testing.T, senders, each int, together bool) int64 {
	x, y := sockets[0].connect(t)
	conn := &gated{Conn: x, gate: make(chan struct{})}
	begin := sync.OnceFunc(func() { close(conn.gate) })
	if !together {
		begin()
	}
	a, b := open(t, conn, transport.Config{}), open(t, y, transport.Config{})
	var results []func() error
	for i := range senders {
		results = append(results, testkit.Background(t, func() error {
			for range each {
				if err := a.Send(context.Background(), i); err != nil {
					return err
				}
			}
			return nil
		}))
		if together {
			awaitSenders(t, a, i+1)
		}
	}
	begin()
	got := make([]int, senders)
	for range senders * each {
		var i int
		require.NoError(t, b.Recv(testkit.Context(t), &i))
		got[i]++
	}
	for i, result := range results {
		require.NoError(t, result())
		require.Equal(t, each, got[i])
	}
	return conn.writes.Load()
}

// A sender that never waits would keep the only processor. It yields, so that others can
// send.
func TestSenders_FindNoTime(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector makes sends too slow")
	}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	// too few messages to fill the socket, because senders would wait together then
	const senders, each, most = 20, 12, 20 * 12 / 2
	var writes int64
	for range 50 { // other work of the machine may make some of them slow
		writes = writesOfACrowd(t, senders, each, false)
		t.Logf("%d writes for %d messages", writes, senders*each)
		if writes < most {
			return
		}
	}
	require.Less(t, writes, int64(most))
}

// The senders of a shared write need not send again.
func TestSenders_LeaveTheChannelFree(t *testing.T) {
	x, y := sockets[0].connect(t)
	conn := &gated{Conn: x, gate: make(chan struct{})}
	a, b := open(t, conn, transport.Config{}), open(t, y, transport.Config{})
	var results []func() error
	for i := range 30 {
		ctx := testkit.Context(t)
		if i%2 == 0 {
			ctx = context.Background()
		}
		results = append(results, testkit.Background(t, func() error { return a.Send(ctx, i) }))
		awaitSenders(t, a, i+1)
	}
	close(conn.gate)
	for _, result := range results {
		require.NoError(t, result())
	}
	for i := range 3 {
		require.NoError(t, a.Send(testkit.Context(t), 100+i))
	}
	for range 33 {
		var got int
		require.NoError(t, b.Recv(testkit.Context(t), &got))
	}
	require.EqualValues(t, 5, conn.writes.Load(), "one alone, one of all, and three alone again")
}

func TestSenders_LargeFramesAreWritesOfTheirOwn(t *testing.T) {
	x, y := sockets[0].connect(t)
	conn := &gated{Conn: x, gate: make(chan struct{})}
	a, b := open(t, conn, transport.Config{}), open(t, y, transport.Config{})
	sizes := []int{1, 10, 20_000, 10, 10, 100_000, 5}
	for range 20 {
		sizes = append(sizes, 7000) // too many for one write
	}
	var results []func() error
	for i, size := range sizes {
		results = append(results, testkit.Background(t, func() error {
			return a.SendBytes(testkit.Context(t), pattern(i, size))
		}))
		awaitSenders(t, a, i+1)
	}
	close(conn.gate)
	buf := make([]byte, 100_000)
	for i, size := range sizes {
		n, err := b.RecvBytes(testkit.Context(t), buf)
		require.NoError(t, err)
		require.True(t, bytes.Equal(pattern(i, size), buf[:n]), "message %d", i)
	}
	for _, result := range results {
		require.NoError(t, result())
	}
	// 1 | 10 | 20,000 | 10, 10 | 100,000 | 5, nine of 7,000 | nine | two
	assert.EqualValues(t, 8, conn.writes.Load())
}

func TestSenders_CancelledOneIsLeftOut(t *testing.T) {
	x, y := sockets[0].connect(t)
	conn := &gated{Conn: x, gate: make(chan struct{})}
	a, b := open(t, conn, transport.Config{}), open(t, y, transport.Config{})
	var results []func() error
	quits := make(map[int]context.CancelCauseFunc)
	for i := range 20 {
		ctx := testkit.Context(t)
		if i%3 == 1 {
			quitting, quit := context.WithCancelCause(ctx)
			ctx, quits[i] = quitting, quit
		}
		results = append(results, testkit.Background(t, func() error { return a.Send(ctx, i) }))
		awaitSenders(t, a, i+1)
	}
	for i, quit := range quits {
		quit(errCause)
		err := results[i]()
		require.ErrorIs(t, err, errCause)
		require.ErrorIs(t, err, context.Canceled)
		require.NotErrorIs(t, err, transport.ErrBroken)
	}
	close(conn.gate)
	for i, result := range results {
		if quits[i] == nil {
			require.NoError(t, result())
			var got int
			require.NoError(t, b.Recv(testkit.Context(t), &got))
			require.Equal(t, i, got)
		}
	}
	assert.EqualValues(t, 2, conn.writes.Load())
}

// Senders are cancelled at any moment. A message is received once if its send returned nil,
// and not at all if it was cancelled. After a cut frame all sends fail.
func TestSenders_CancelledAtRandom(t *testing.T) {
	const senders, each = 16, 40
	rounds := 60
	if testing.Short() || raceDetector {
		rounds = 15
	}
	for _, l := range sockets {
		t.Run(l.name, func(t *testing.T) {
			t.Parallel()
			var sent, withdrawn, cut int
			for round := range rounds {
				x, y := l.connect(t)
				shrink(t, x, y)
				a, b := open(t, x, transport.Config{}), open(t, y, transport.Config{})
				var mu sync.Mutex
				outcome := make(map[uint32]error)
				var wg sync.WaitGroup
				for s := range senders {
					wg.Go(func() {
						rng := rand.New(rand.NewPCG(uint64(round), uint64(s)))
						for i := range each {
							id := uint32(s*each + i)
							size := rng.IntN(1 << rng.IntN(15))
							p := append(binary.LittleEndian.AppendUint32(nil, id),
								pattern(int(id), size)...)
							ctx, cancel := context.WithCancel(context.Background())
							if rng.IntN(3) == 0 {
								time.AfterFunc(time.Duration(rng.IntN(300))*time.Microsecond,
									cancel)
							}
							err := a.SendBytes(ctx, p)
							cancel()
							mu.Lock()
							outcome[id] = err
							mu.Unlock()
						}
					})
				}
				received := testkit.Background(t, func() map[uint32]int {
					got := make(map[uint32]int)
					buf := make([]byte, 1<<15)
					rng := rand.New(rand.NewPCG(uint64(round), 99))
					for {
						n, err := b.RecvBytes(context.Background(), buf)
						if err != nil {
							if !errors.Is(err, transport.ErrPeerGone) {
								t.Error(err)
							}
							return got
						}
						id := binary.LittleEndian.Uint32(buf)
						if !bytes.Equal(pattern(int(id), n-4), buf[4:n]) {
							t.Errorf("message %d is damaged", id)
						}
						got[id]++
						if rng.IntN(20) == 0 {
							// so that the socket is full at times
							time.Sleep(200 * time.Microsecond)
						}
					}
				})
				wg.Wait()
				require.Zero(t, a.Senders())
				x.(interface{ CloseWrite() error }).CloseWrite()
				got := received()
				broke := false
				for id, err := range outcome {
					switch {
					case err == nil:
						sent++
						require.Equal(t, 1, got[id], "message %d was sent", id)
					case errors.Is(err, transport.ErrBroken):
						broke = true
						cut++
						require.Zero(t, got[id], "message %d was cut, or came after the cut", id)
					default:
						withdrawn++
						require.ErrorIs(t, err, context.Canceled)
						require.Zero(t, got[id], "message %d was not sent: %v", id, err)
					}
				}
				if broke {
					require.ErrorIs(t, a.Send(testkit.Context(t), 1), transport.ErrBroken)
				}
			}
			t.Logf("%d sent, %d withdrawn, %d cut or after a cut", sent, withdrawn, cut)
		})
	}
}

func TestSenders_LearnThatTheChannelIsClosed(t *testing.T) {
	for _, l := range links() {
		for name, end := range map[string]func(c *transport.Channel) error{
			"Close": closeSoon,
			"Abort": (*transport.Channel).Abort,
		} {
			t.Run(l.name+", "+name, func(t *testing.T) {
				t.Parallel()
				const senders = 300
				c, peer := l.withStuckPeer(t)
				first := testkit.Background(t, func() error {
					return c.SendBytes(context.Background(), huge())
				})
				readN(t, peer, 10)
				var results []func() error
				for i := range senders {
					ctx, cancel := context.Background(), func() {}
					if i%2 == 0 {
						ctx, cancel = context.WithCancel(ctx)
					}
					defer cancel()
					results = append(results, testkit.Background(t, func() error {
						return c.Send(ctx, i)
					}))
				}
				awaitSenders(t, c, senders+1)
				end(c)
				require.ErrorIs(t, first(), transport.ErrChannelClosed)
				for _, result := range results {
					require.ErrorIs(t, result(), transport.ErrChannelClosed)
				}
				require.Zero(t, c.Senders())
			})
		}
	}
}

func TestPeerGone_ManySenders(t *testing.T) {
	for _, l := range links() {
		t.Run(l.name, func(t *testing.T) {
			t.Parallel()
			const senders = 100
			c, peer := l.withStuckPeer(t)
			first := testkit.Background(t, func() error {
				return c.SendBytes(context.Background(), huge())
			})
			readN(t, peer, 10)
			var results []func() error
			for i := range senders {
				results = append(results, testkit.Background(t, func() error {
					return c.Send(context.Background(), i)
				}))
			}
			awaitSenders(t, c, senders+1)
			socket(peer).Close()
			require.ErrorIs(t, first(), transport.ErrPeerGone)
			for _, result := range results {
				require.ErrorIs(t, result(), transport.ErrPeerGone)
			}
		})
	}
}

// The goodbye is the last frame. Sends that have not begun fail.
func TestSenders_GoodbyeIsTheLastFrame(t *testing.T) {
	x, peer := sockets[0].connect(t)
	conn := &gated{Conn: x, gate: make(chan struct{})}
	c := open(t, conn, transport.Config{})
	first := testkit.Background(t, func() error { return c.Send(testkit.Context(t), 1) })
	awaitSenders(t, c, 1)
	second := testkit.Background(t, func() error { return c.Send(testkit.Context(t), 2) })
	awaitSenders(t, c, 2)
	closed := testkit.Background(t, func() error { return c.CloseWith(testkit.Context(t), 0, "") })
	awaitSenders(t, c, 3)
	close(conn.gate)
	require.NoError(t, first())
	require.ErrorIs(t, second(), transport.ErrChannelClosed, "it had not begun")
	require.NoError(t, closed())
	require.ErrorIs(t, c.Send(testkit.Context(t), 3), transport.ErrChannelClosed)
	b := open(t, peer, transport.Config{})
	var got int
	require.NoError(t, b.Recv(testkit.Context(t), &got))
	require.Equal(t, 1, got)
	var bye *transport.GoodbyeError
	require.ErrorAs(t, b.Recv(testkit.Context(t), &got), &bye)
}

func TestMemory_SlowReceiver(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector allocates")
	}
	for _, l := range sockets {
		t.Run(l.name, func(t *testing.T) {
			const senders, each, size = 32, 500, 4000
			a, b := l.channels(t)
			ctx := context.Background()
			var wg sync.WaitGroup
			before := allocated()
			for s := range senders {
				wg.Go(func() {
					p := make([]byte, size)
					for i := range each {
						send := a.SendBytes
						if i%2 == 0 {
							send = func(ctx context.Context, p []byte) error {
								return a.Send(ctx, transport.Bytes(p))
							}
						}
						if !assert.NoError(t, send(ctx, p), s) {
							return
						}
					}
				})
			}
			buf, typed := make([]byte, size), make(transport.Bytes, 0, size)
			counts := [2]int{}
			for n := range senders * each {
				if _, err := b.RecvBytes(ctx, buf); errors.Is(err, transport.ErrWrongKind) {
					require.NoError(t, b.Recv(ctx, &typed))
					counts[1]++
				} else {
					require.NoError(t, err)
					counts[0]++
				}
				if n%1000 == 0 {
					time.Sleep(time.Millisecond)
				}
			}
			wg.Wait()
			require.Equal(t, counts[0], counts[1])
			// 64 MB were sent, but each waiting sender keeps only one frame.
			perMessage := float64(allocated()-before) / (senders * each)
			assert.Less(t, perMessage, 1500.0,
				fmt.Sprintf("bytes allocated for each message of %d", size))
		})
	}
}
