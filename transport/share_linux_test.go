package transport_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/transport"
)

// sharing returns two connected channels that have agreed on shared memory.
func sharing(t testing.TB, cfg transport.Config) (a, b *transport.Channel) {
	t.Helper()
	x, y := socketPair(t)
	a, b = open(t, x, cfg), open(t, y, cfg)
	for _, c := range []*transport.Channel{a, b} {
		require.True(t, frames(c).CanShare())
		frames(c).Share()
	}
	return a, b
}

// large is the size of the smallest body in shared memory.
const large = 64 << 10

// warm sends the first large message. Then from shares its memory with to.
func warm(t testing.TB, from, to *transport.Channel) {
	t.Helper()
	require.False(t, from.SharesMemory())
	exchange(t, from, to, pattern(0, large))
	require.True(t, from.SharesMemory())
}

func exchange(t testing.TB, from, to *transport.Channel, p []byte) {
	t.Helper()
	sent := testkit.Background(t, func() error { return from.SendBytes(testkit.Context(t), p) })
	got, err := to.RecvBorrowed(testkit.Context(t))
	require.NoError(t, err)
	require.True(t, bytes.Equal(p, got))
	require.NoError(t, sent())
}

// shared returns the lines of this process's maps for the memory of channels.
func shared(t testing.TB) (maps []string) {
	t.Helper()
	for line := range strings.Lines(testkit.ReadFile(t, "/proc/self/maps")) {
		if strings.Contains(line, "/memfd:spawnwire") {
			maps = append(maps, line)
		}
	}
	return maps
}

// descriptors returns the files of this process.
func descriptors(t testing.TB) (all []string) {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	for _, fd := range list {
		if to, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil &&
			!strings.HasPrefix(to, "/proc/") {
			all = append(all, to)
		}
	}
	return all
}

func TestShared_MessagesOfEachKindAndSize(t *testing.T) {
	a, b := sharing(t, transport.Config{})
	warm(t, a, b)
	warm(t, b, a)
	ctx := testkit.Context(t)
	type value struct {
		N    int
		Data transport.Bytes
	}
	buf := make([]byte, 4<<20)
	for i, size := range []int{0, 1, large - 1, large, large + 1, 1 << 20, 3<<20 + 7, 4 << 20} {
		want := pattern(i, size)
		sent := testkit.Background(t, func() error {
			if err := a.SendBytes(ctx, want); err != nil {
				return err
			}
			if err := a.Send(ctx, value{i, want}); err != nil {
				return err
			}
			return a.SendBytes(ctx, want)
		})
		n, err := b.RecvBytes(ctx, buf)
		require.NoError(t, err)
		require.True(t, bytes.Equal(want, buf[:n]), "%d bytes", size)
		var v value
		require.NoError(t, b.Recv(ctx, &v))
		require.Equal(t, i, v.N)
		require.True(t, bytes.Equal(want, v.Data), "%d bytes", size)
		lent, err := b.RecvBorrowed(ctx)
		require.NoError(t, err)
		require.True(t, bytes.Equal(want, lent), "%d bytes", size)
		require.NoError(t, sent())
		exchange(t, b, a, lent) // also from the peer's memory
	}
	assert.True(t, a.SharesMemory())
	assert.True(t, b.SharesMemory())
}

// A receiver that fails keeps the message, as it does without shared memory.
func TestShared_MessageStays(t *testing.T) {
	a, b := sharing(t, transport.Config{})
	warm(t, a, b)
	ctx := testkit.Context(t)
	want := pattern(1, 1<<20)
	require.NoError(t, a.SendBytes(ctx, want))
	var short *transport.ShortBufferError
	_, err := b.RecvBytes(ctx, make([]byte, 10))
	require.ErrorAs(t, err, &short)
	require.Equal(t, len(want), short.Need)
	require.ErrorIs(t, b.Recv(ctx, new(string)), transport.ErrWrongKind)
	got, err := b.RecvBorrowed(ctx)
	require.NoError(t, err)
	require.True(t, bytes.Equal(want, got))

	require.NoError(t, a.Send(ctx, want))
	_, err = b.RecvBorrowed(ctx)
	require.ErrorIs(t, err, transport.ErrWrongKind)
	require.ErrorAs(t, b.Recv(ctx, new(string)), new(*transport.DecodeError))
	require.NoError(t, a.SendBytes(ctx, want))
	_, err = b.RecvBytes(ctx, make([]byte, 1<<20))
	require.NoError(t, err)
}

// When the memory is spent, messages go through the socket, in their order.
func TestShared_BudgetIsBounded(t *testing.T) {
	a, b := sharing(t, transport.Config{})
	warm(t, a, b)
	ctx := testkit.Context(t)
	const n = 50 // of 1 MiB and more
	sent := testkit.Background(t, func() error {
		for i := range n {
			if err := a.SendBytes(ctx, pattern(i, 1<<20+i)); err != nil {
				return err
			}
			if err := a.Send(ctx, i); err != nil {
				return err
			}
		}
		return nil
	})
	// The sender has to stop: the memory is full, and then the socket is.
	testkit.Eventually(t, "a full socket", func() bool {
		return unread(t, b) > 64<<10
	})
	for i := range n {
		got, err := b.RecvBorrowed(ctx)
		require.NoError(t, err)
		require.True(t, bytes.Equal(pattern(i, 1<<20+i), got), "message %d", i)
		var k int
		require.NoError(t, b.Recv(ctx, &k))
		require.Equal(t, i, k)
	}
	require.NoError(t, sent())
	for range 40 { // and all of the memory is free again
		exchange(t, a, b, pattern(1, 4<<20))
	}
	assert.True(t, a.SharesMemory())
	assert.Less(t, resident(t, "/memfd:spawnwire"), 2*2*(16<<20)+(1<<20))
}

// unread returns the number of unread bytes in the socket of c.
func unread(t testing.TB, c *transport.Channel) (n int) {
	t.Helper()
	raw, err := c.NetConn().(syscall.Conn).SyscallConn()
	require.NoError(t, err)
	require.NoError(t, raw.Control(func(fd uintptr) {
		n, err = unix.IoctlGetInt(int(fd), unix.SIOCINQ)
	}))
	require.NoError(t, err)
	return n
}

// resident returns the bytes of this process's mappings of a file.
func resident(t testing.TB, file string) (total int) {
	t.Helper()
	inside := false
	for line := range strings.Lines(testkit.ReadFile(t, "/proc/self/smaps")) {
		f := strings.Fields(line)
		if strings.Contains(f[0], "-") {
			inside = strings.Contains(line, file)
		} else if f[0] == "Rss:" && inside {
			var n int
			for _, d := range f[1] {
				n = 10*n + int(d-'0')
			}
			total += n << 10
		}
	}
	return total
}

// Close leaves no mapping and no descriptor, on either side. A lent message stays until the
// next receive.
func TestShared_CloseFreesAll(t *testing.T) {
	noneShared(t)
	before := descriptors(t)
	a, b := sharing(t, transport.Config{})
	warm(t, a, b)
	warm(t, b, a)
	assert.Len(t, shared(t), 2*2*2, "of each side two files, mapped by both")
	ctx := testkit.Context(t)
	want := pattern(1, 1<<20)
	require.NoError(t, a.SendBytes(ctx, want))
	lent, err := b.RecvBorrowed(ctx)
	require.NoError(t, err)
	require.NoError(t, a.Close())
	require.ErrorIs(t, b.Close(), transport.ErrPeerGone)
	assert.Len(t, shared(t), 2, "what is lent")
	assert.True(t, bytes.Equal(want, lent), "also after both have closed")
	_, err = b.RecvBytes(ctx, nil)
	require.ErrorIs(t, err, transport.ErrChannelClosed)
	assert.Empty(t, shared(t))
	assert.ElementsMatch(t, before, descriptors(t))
}

func TestShared_ForgottenLendIsFreed(t *testing.T) {
	func() {
		x, y := socketPair(t)
		a, b := transport.New(x, transport.Config{}), transport.New(y, transport.Config{})
		frames(a).Share()
		frames(b).Share()
		warm(t, a, b)
		require.NoError(t, a.SendBytes(testkit.Context(t), pattern(1, large)))
		_, err := b.RecvBorrowed(testkit.Context(t))
		require.NoError(t, err)
		a.Abort()
		b.Abort()
		require.NotEmpty(t, shared(t))
	}()
	noneShared(t)
}

// noneShared waits until nothing is shared any more. If a channel was closed while it had
// lent a message, the garbage collector unmaps the message.
func noneShared(t testing.TB) {
	t.Helper()
	testkit.Eventually(t, "no mapping", func() bool {
		runtime.GC()
		return len(shared(t)) == 0
	})
}

// A cancelled send has written nothing, and its memory is used again.
func TestShared_CancelledSendKeepsNothing(t *testing.T) {
	a, b := sharing(t, transport.Config{})
	warm(t, a, b)
	ctx := testkit.Context(t)
	fillSocket(t, a)
	for range 100 {
		some, cancel := context.WithCancel(ctx)
		waits := testkit.Background(t, func() error { return a.SendBytes(some, pattern(0, 1<<20)) })
		testkit.Eventually(t, "a send that waits", func() bool { return a.Senders() == 1 })
		cancel()
		require.ErrorIs(t, waits(), context.Canceled)
	}
	exchange(t, a, b, pattern(3, 16<<20-1))
	assert.Greater(t, resident(t, "/memfd:spawnwire"), 16<<20, "it went through the memory")
}

// fillSocket fills the socket of c with extension frames.
func fillSocket(t testing.TB, c *transport.Channel) {
	t.Helper()
	raw, err := c.NetConn().(syscall.Conn).SyscallConn()
	require.NoError(t, err)
	skipped := frameOf(0x80, make([]byte, 1000)...)
	require.NoError(t, raw.Control(func(fd uintptr) {
		for err == nil {
			err = unix.Sendto(int(fd), skipped, unix.MSG_DONTWAIT, nil)
		}
	}))
	require.ErrorIs(t, err, unix.EAGAIN)
}

// Without a descriptor for it the receiver has no memory, and all goes on as before.
func TestShared_NeedsDescriptors(t *testing.T) {
	a, b := sharing(t, transport.Config{})
	ctx := testkit.Context(t)
	undo := testkit.ExhaustDescriptors(0)
	defer undo()
	for i := range 3 { // a cannot make it now, and it does not try again
		exchange(t, a, b, pattern(i, large))
	}
	undo()
	exchange(t, a, b, pattern(0, large))
	assert.False(t, a.SharesMemory())
	require.NoError(t, a.Send(ctx, 1))
	require.NoError(t, b.Recv(ctx, new(int)))
}

// A frame of the feature is an unknown kind where nobody has agreed on it, and at no time
// without its form.
func TestShared_RefusesFrames(t *testing.T) {
	ref := func(at, size uint32) []byte {
		return binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, at), size)
	}
	for name, c := range map[string]struct {
		share bool
		sent  []byte
		says  string
	}{
		"without the feature": {false, frameOf(0x04), "unknown kind 0x04"},
		"a body":              {true, frameOf(0x04, 1), "memory frame of length 2"},
		"a short place":       {true, frameOf(0x06, 1, 2, 3), "shared-raw frame of length 4"},
		"no memory":           {true, frameOf(0x06, ref(0, 1)...), "shared memory of 0 bytes"},
		"two memories":        {true, append(frameOf(0x04), frameOf(0x04)...), "second memory"},
		"a large message":     {true, frameOf(0x05, ref(0, 1<<30)...), "announced a frame"},
	} {
		t.Run(name, func(t *testing.T) {
			x, y := socketPair(t)
			ch := open(t, x, transport.Config{})
			if c.share {
				frames(ch).Share()
			}
			_, err := y.Write(c.sent)
			require.NoError(t, err)
			_, err = ch.RecvBorrowed(testkit.Context(t))
			require.ErrorIs(t, err, transport.ErrProtocol)
			require.ErrorContains(t, err, c.says)
		})
	}
}
