package call

import (
	"encoding/binary"
	"io"
	"net"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/transport"
)

// lockedConn returns a Conn with its mu locked. Its peer only reads.
func lockedConn(t *testing.T) *Conn {
	x, y := testkit.Unix(t)
	ch := transport.New(x, transport.Config{})
	c := Config{Memory: 1 << 28, MaxMessage: 1 << 26}.New(Over(ch), nil)
	t.Cleanup(func() {
		assert.NoError(t, c.Close())
		ch.Abort()
	})
	go discard(y)
	c.mu.Lock()
	c.peer = &hello{128, maxWindow, 1 << 26}
	return c
}

func discard(conn net.Conn) {
	for buf := make([]byte, 1000); ; {
		if _, err := conn.Read(buf); err != nil {
			return
		}
	}
}

// unpooled is the size of a message too large for largePool.
const unpooled = maxKept + 1

// waitingCall returns a call whose receiver waits for a message.
func waitingCall(c *Conn, id uint64) *incoming {
	x := newIncoming(c, id, &handler{name: "large", one: true}, 0)
	c.theirs[id] = x
	return x
}

// receivePart has x receive the first part of a message of size bytes.
func receivePart(t *testing.T, x *incoming, size int) {
	part := append(binary.LittleEndian.AppendUint32(nil, uint32(size)), "the first part"...)
	require.NoError(t, x.receive(head{opData, flagCaller | flagValue | flagMore, x.id}, part))
}

// granted waits until the peer has the credit for the message under way.
func granted(t *testing.T, x *incoming) {
	testkit.Eventually(t, "the credit is given", func() bool {
		x.c.mu.Lock()
		defer x.c.mu.Unlock()
		return x.in.granted == x.in.need()
	})
}

// Large memory takes milliseconds, so no call may wait for it at mu.
func TestConn_AllocatesWithoutItsLock(t *testing.T) {
	c := lockedConn(t)
	first, second := waitingCall(c, 1), waitingCall(c, 2)
	receivePart(t, first, unpooled)
	receivePart(t, second, unpooled+1)
	assert.Equal(t, c.window, first.in.granted, "no credit before there is memory")
	c.mu.Unlock()
	granted(t, first)
	granted(t, second)
	c.mu.Lock()
	defer c.mu.Unlock()
	assert.GreaterOrEqual(t, cap(first.in.part.b), unpooled)
	assert.GreaterOrEqual(t, cap(second.in.part.b), unpooled+1)
	assert.Equal(t, "the first part", string(second.in.part.b))
	assert.Equal(t, c.cfg.Memory/2-first.in.extra-second.in.extra, c.pool.free)
}

func TestConn_DroppedMessageUsesNoMemory(t *testing.T) {
	c := lockedConn(t)
	dropped, next := waitingCall(c, 1), waitingCall(c, 2)
	receivePart(t, dropped, unpooled)
	receivePart(t, next, unpooled+1)
	dropped.drop() // its memory is being allocated
	c.mu.Unlock()
	granted(t, next)
	c.mu.Lock()
	defer c.mu.Unlock()
	assert.Equal(t, c.window, dropped.in.granted)
	assert.Equal(t, c.cfg.Memory/2-next.in.extra, c.pool.free)
}

// Only the message that the program takes next may use the pool. Another one would lose
// its place there when the program takes the first.
func TestConn_SecondMessageDoesNotUseThePool(t *testing.T) {
	c := lockedConn(t)
	defer c.mu.Unlock()
	x := waitingCall(c, 1)
	require.NoError(t, x.receive(head{opData, flagCaller | flagValue, x.id}, []byte("first")))
	receivePart(t, x, unpooled)
	assert.False(t, x.in.queued, "before the first is taken")
	require.Same(t, x, x.begin())
	x.take()
	x.grant()
	assert.False(t, x.in.queued, "the handler takes no other")
	assert.Equal(t, c.window, x.in.granted)
}

// The kernel refuses a write before the reader knows why, so Send waits for the reason.
func TestStream_SendAfterAFailedWriteReturnsTheReason(t *testing.T) {
	for _, size := range []int{10, maxPart + 1, 2 * maxWindow} {
		c := lockedConn(t)
		x := waitingCall(c, 1)
		c.wrote(nil, io.ErrClosedPipe)
		c.mu.Unlock()
		sent := testkit.Background(t, func() error {
			return sendValue(t.Context(), &x.exchange, new(box[[]byte]), make([]byte, size))
		})
		testkit.Eventually(t, "Send waits", func() bool {
			c.mu.Lock()
			defer c.mu.Unlock()
			return !c.reading.waiting.empty() || c.reading.reader == &x.out.w
		})
		c.mu.Lock()
		c.failLocked(transport.ErrPeerGone)
		c.mu.Unlock()
		assert.ErrorIs(t, sent(), transport.ErrPeerGone, "%d bytes", size)
	}
}
