package call

import (
	"context"
	"fmt"
	"io"
	"math"
	"net"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/transport"
)

// attack is what an authenticated peer does to a Conn that takes 4 calls.
type attack struct {
	name   string
	error  string // of the Conn; empty: it lives on
	frames func(send func(...[]byte) bool)
}

// The bodies and frames of attacks.
var (
	attackEcho = openBody(opening{method: "echo", value: []byte("\x65hello")})
	attackText = append([]byte("\x79\x03\xe8"), make([]byte, 1000)...) // of 1,000 zeros
)

func attackOpen(id uint64, method string) []byte {
	return framed(head{opOpen, flagCaller, id}, openBody(opening{method: method}))
}

func attackCall(id uint64) []byte {
	return framed(head{opOpen, flagCaller | flagValue | flagEnd, id}, attackEcho)
}

var attacks = []attack{
	{"sends more than its credit", "the credit is", func(send func(...[]byte) bool) {
		send(attackOpen(1, "ignore"))
		for send(framed(head{opData, flagCaller | flagValue, 1}, attackText)) {
		}
	}},
	{"opens more calls than allowed", "more than 4 open calls", func(send func(...[]byte) bool) {
		for id := uint64(1); send(attackOpen(id, "ignore")); id++ {
		}
	}},
	{"uses an id again", "call 1 after call 1", func(send func(...[]byte) bool) {
		for send(attackOpen(1, "ignore")) {
		}
	}},
	{"opens calls and does not read", "more than 4 open calls", func(send func(...[]byte) bool) {
		for id := uint64(1); send(attackCall(id)); id++ {
		}
	}},
	{"opens unknown methods and does not read", "more than 4 open calls",
		func(send func(...[]byte) bool) {
			for id := uint64(1); send(attackOpen(id, "x")); id++ {
			}
		}},
	{"gives endless credit and does not read", "", func(send func(...[]byte) bool) {
		send(attackOpen(1, "endless"),
			framed(head{opCredit, flagCaller, 1}, credit(math.MaxUint64)))
		for id := uint64(2); send(framed(head{op: 0x80, id: id})); id++ {
			time.Sleep(time.Millisecond)
		}
	}},
	{"sends without end and does not read", "", func(send func(...[]byte) bool) {
		send(attackOpen(1, "swallow"))
		swallowed.Store(0)
		data := join(repeat(framed(head{opData, flagCaller | flagValue, 1}, attackText), 10))
		for n := int64(0); send(data); {
			for n += 10; swallowed.Load() < n-10; runtime.Gosched() {
				if !send() {
					return
				}
			}
		}
	}},
	{"cancels calls that do not end", "", func(send func(...[]byte) bool) {
		for id := uint64(1); id <= 4; id++ {
			send(attackOpen(id, "ignore"))
		}
		for send(framed(head{opCancel, flagCaller, 4}, cancellation{code: CodeCanceled}.encode())) {
		}
	}},
}

// TestHostile_Peers attacks a Conn of a process with another one. The other one
// serves its calls, the memory is bounded, and each violation has its error. For the
// table in docs/threat-model.md:
//
//	go test -v -count=1 -run 'TestHostile_Peers$' ./call
func TestHostile_Peers(t *testing.T) {
	var table strings.Builder
	fmt.Fprintf(&table, "%-42s %8s %9s %6s  %s\n",
		"attack", "sent MiB", "heap KiB", "calls", "error")
	for _, a := range attacks {
		t.Run(a.name, func(t *testing.T) {
			stop := make(chan struct{})
			mux := hostileMux(stop)
			x, y := testkit.Unix(t)
			ch := transport.New(x, transport.Config{})
			defer ch.Abort()
			cfg := Config{MaxCalls: 4, Memory: 4 << 20, CancelGrace: testkit.Patience}
			c := cfg.New(Over(ch), mux)
			near, far := neighbours(t, mux)
			before := heapSize()
			sent := make(chan int64, 1)
			until := time.Now().Add(200 * time.Millisecond)
			go func() { sent <- a.run(y, until) }()
			calls, most := 0, int64(0)
			for ended := false; !ended; {
				select {
				case n := <-sent:
					sent <- n
					ended = true
				default:
				}
				got, err := NewUnary[string, string]("echo").Call(testkit.Context(t), near, "hello")
				require.NoError(t, err)
				require.Equal(t, "hello", got)
				if calls++; calls%50 == 0 {
					most = max(most, heapSize()-before)
				}
			}
			if a.error != "" {
				testkit.Receive(t, c.Done())
				assert.ErrorIs(t, c.Err(), ErrProtocol)
				assert.ErrorContains(t, c.Err(), a.error)
			} else {
				assert.NoError(t, c.Err())
			}
			assert.Less(t, most, int64(8<<20), "bytes of the heap")
			fmt.Fprintf(&table, "%-42s %8.1f %9d %6d  %v\n", a.name,
				float64(<-sent)/(1<<20), most>>10, calls, c.Err())
			y.Close()
			close(stop)
			assert.NoError(t, c.Close())
			assert.NoError(t, near.Close())
			assert.NoError(t, far.Close())
		})
	}
	t.Logf("heap: largest growth; calls: of another connection meanwhile\n%s", &table)
}

// run attacks until the time has come or the connection has ended, and returns the
// sent bytes.
func (a *attack) run(conn net.Conn, until time.Time) (sent int64) {
	conn.SetWriteDeadline(until)
	write := func(frames ...[]byte) bool {
		n, err := conn.Write(join(frames))
		sent += int64(n)
		return err == nil && time.Now().Before(until)
	}
	write(framed(head{op: opHello}, hello{1 << 30, 1 << 30, 1 << 30}.encode()))
	a.frames(write)
	if a.error != "" { // it has sent enough for that
		conn.SetReadDeadline(time.Now().Add(testkit.Patience))
		io.Copy(io.Discard, conn)
	}
	return sent
}

// swallowed counts the messages of swallow.
var swallowed atomic.Int64

// hostileMux has methods to attack. ignore ends when stop is closed.
func hostileMux(stop chan struct{}) *Mux {
	mux := NewMux()
	NewUnary[string, string]("echo").Handle(mux,
		func(_ context.Context, s string) (string, error) { return s, nil })
	NewBidi[any, any]("ignore").Handle(mux, func(context.Context, *Stream[any, any]) error {
		<-stop
		return nil
	})
	NewBidi[string, string]("endless").Handle(mux,
		func(_ context.Context, s *Stream[string, string]) error {
			for text := strings.Repeat("x", 10_000); ; {
				if err := s.Send(text); err != nil {
					return err
				}
			}
		})
	NewBidi[string, any]("swallow").Handle(mux,
		func(_ context.Context, s *Stream[any, string]) error {
			for _, err := range s.All() {
				if err != nil {
					return err
				}
				swallowed.Add(1)
			}
			return nil
		})
	return mux
}

// neighbours returns another connection of this process.
func neighbours(t *testing.T, mux *Mux) (near, far *Conn) {
	x, y := testkit.Unix(t)
	return New(Over(transport.New(x, transport.Config{})), nil),
		New(Over(transport.New(y, transport.Config{})), mux)
}

// heapSize returns the size of what is reachable in the heap.
func heapSize() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// A peer with endless credit reads late. Then it gets everything.
func TestStream_SendersWaitForTheQueue(t *testing.T) {
	x, y := testkit.Unix(t)
	ch := transport.New(x, transport.Config{})
	defer ch.Abort()
	c := New(Over(ch), hostileMux(nil))
	endless := framed(head{opCredit, flagCaller, 1}, credit(math.MaxUint64))
	_, err := y.Write(join([][]byte{
		framed(head{op: opHello}, hello{9, 1 << 20, 1 << 20}.encode()),
		attackOpen(1, "endless"), endless,
	}))
	require.NoError(t, err)
	testkit.Eventually(t, "the queue is full", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return len(c.writing.out) >= maxQueued && len(c.writing.room.all) > 0
	})
	require.NoError(t, y.SetDeadline(time.Now().Add(testkit.Patience)))
	_, err = io.CopyN(io.Discard, y, 8<<20)
	require.NoError(t, err)
	y.Close() // ends the write under way
	require.NoError(t, c.Close())
}

// A callee that never sends results keeps only its own slots, and each caller gets
// its error in time.
func TestHostile_CalleeWithoutResults(t *testing.T) {
	x, y := testkit.Unix(t)
	ch := transport.New(x, transport.Config{})
	defer ch.Abort()
	c := Config{CancelGrace: 10 * time.Millisecond}.New(Over(ch), nil)
	_, err := y.Write(framed(head{op: opHello}, hello{3, 4096, 1000}.encode()))
	require.NoError(t, err)
	go io.Copy(io.Discard, y)
	echo := NewUnary[string, string]("echo")
	for i := range 10 {
		ctx, cancel := context.WithTimeout(testkit.Context(t), 10*time.Millisecond)
		_, err := echo.Call(ctx, c, "hello")
		cancel()
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		if i < 3 {
			assert.ErrorIs(t, err, ErrStillRunning)
		} else {
			assert.NotErrorIs(t, err, ErrStillRunning, "it did not begin")
		}
	}
	assert.Len(t, c.ours, 3)
	assert.NoError(t, c.Err())
	assert.NoError(t, c.Close())
}

// One of a thousand streams is not read. Its messages stay within its window, and the
// others go on.
func TestHostile_StreamThatIsNotRead(t *testing.T) {
	mux := hostileMux(nil)
	cfg := Config{MaxCalls: 1000, Memory: 16 << 20, CancelGrace: testkit.Patience}
	x, y := testkit.Unix(t)
	near := cfg.New(Over(transport.New(x, transport.Config{})), nil)
	far := cfg.New(Over(transport.New(y, transport.Config{})), mux)
	ctx, cancel := context.WithCancel(testkit.Context(t))
	endless := NewBidi[string, string]("endless")
	var streams []*Stream[string, string]
	for range cfg.MaxCalls {
		s, err := endless.Open(ctx, near)
		require.NoError(t, err)
		streams = append(streams, s)
	}
	for _, s := range streams[1:] {
		for range 2 {
			_, err := s.Recv()
			require.NoError(t, err)
		}
	}
	near.mu.Lock()
	kept := 0
	for _, m := range streams[0].x.in.ready {
		kept += overhead + len(m.b)
	}
	assert.LessOrEqual(t, kept, int(near.window))
	near.mu.Unlock()
	cancel()
	for _, s := range streams {
		assert.NoError(t, s.Close())
	}
	assert.NoError(t, near.Close())
	assert.NoError(t, far.Close())
}
