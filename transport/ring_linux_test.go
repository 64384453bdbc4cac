package transport_test

import (
	"bytes"
	"context"
	"errors"
	"hash/crc32"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/spawnwire/spawnwire/internal/frame"
	"github.com/spawnwire/spawnwire/internal/testkit"

	"github.com/spawnwire/spawnwire/transport"
)

func init() {
	sockets = append(sockets, link{ringName, socketPair})
}

// ringed returns two connected channels that have agreed on a ring.
func ringed(t testing.TB, cfg transport.Config) (a, b *transport.Channel) {
	t.Helper()
	a, b = sharing(t, cfg)
	frames(a).UseRing()
	frames(b).UseRing()
	return a, b
}

// The first messages go through the socket, and the next ones through the ring. Without an
// agreement all go through the socket.
func TestRing_BeginsAfterTheFirstMessages(t *testing.T) {
	a, b := ringed(t, transport.Config{})
	require.False(t, a.UsesRing())
	warmRings(t, a, b)
	c, d := sharing(t, transport.Config{})
	for i := range 5 {
		exchange(t, c, d, pattern(i, 100))
		require.False(t, c.UsesRing())
	}
}

// Small and large messages, values and bytes keep their order in the ring.
func TestRing_KeepsTheOrder(t *testing.T) {
	a, b := ringed(t, transport.Config{})
	ctx := testkit.Context(t)
	const n = 300
	sent := testkit.Background(t, func() error {
		batch := a.NewBatch()
		for i := range n {
			if err := batch.Send(ctx, i); err != nil {
				return err
			}
			if err := batch.Flush(ctx); err != nil {
				return err
			}
			if err := a.SendBytes(ctx, pattern(i, i*i*3)); err != nil {
				return err
			}
		}
		return nil
	})
	for i := range n {
		var got int
		require.NoError(t, b.Recv(ctx, &got))
		require.Equal(t, i, got)
		body, err := b.RecvBorrowed(ctx)
		require.NoError(t, err)
		require.True(t, bytes.Equal(pattern(i, i*i*3), body))
	}
	require.NoError(t, sent())
	require.True(t, a.UsesRing())
	require.True(t, a.SharesMemory(), "for large messages")
}

// A small message that has no room in the ring is not begun, so its cancelled send does not
// break the channel. It is the same in a Unix socket.
func TestRing_CancelledSmallSendKeepsTheChannel(t *testing.T) {
	a, b := ringed(t, transport.Config{})
	warmRings(t, a, b)
	ctx := testkit.Context(t)
	sent := 0
	for range 3 {
		some, cancel := context.WithCancel(ctx)
		fills := testkit.Background(t, func() (err error) {
			for {
				if err = a.SendBytes(some, pattern(sent, 1000+sent)); err != nil {
					return err
				}
				sent++
			}
		})
		testkit.Eventually(t, "a full ring", func() bool { return a.Senders() == 1 })
		cancel()
		err := fills()
		require.ErrorIs(t, err, context.Canceled)
		require.NotErrorIs(t, err, transport.ErrBroken)
	}
	for i := range sent {
		got, err := b.RecvBorrowed(ctx)
		require.NoError(t, err)
		require.Equal(t, pattern(i, 1000+i), got)
	}
	exchange(t, a, b, pattern(1, 3000))
}

// The end of the peer ends a receive in the ring, and a send without room.
func TestRing_PeerEnds(t *testing.T) {
	for name, end := range map[string]func(c *transport.Channel) error{
		"Abort":      (*transport.Channel).Abort,
		"the socket": func(c *transport.Channel) error { return c.NetConn().Close() },
	} {
		t.Run(name, func(t *testing.T) {
			a, b := ringed(t, transport.Config{})
			warmRings(t, a, b)
			ctx := testkit.Context(t)
			received := testkit.Background(t, func() error { return a.Recv(ctx, new(int)) })
			sent := testkit.Background(t, func() error {
				for {
					if err := a.SendBytes(ctx, make([]byte, 1000)); err != nil {
						return err
					}
				}
			})
			testkit.Eventually(t, "a sender that waits", func() bool { return a.Senders() == 1 })
			end(b)
			require.ErrorIs(t, received(), transport.ErrPeerGone)
			require.ErrorIs(t, sent(), transport.ErrPeerGone)
		})
	}
}

// A goodbye for which the ring has no room ends with the reason.
func TestRing_AbortEndsAClose(t *testing.T) {
	a, b := ringed(t, transport.Config{})
	warmRings(t, a, b)
	ctx, cancel := context.WithCancel(testkit.Context(t))
	fills := testkit.Background(t, func() (err error) {
		for err == nil {
			err = a.SendBytes(ctx, []byte{1})
		}
		return err
	})
	testkit.Eventually(t, "a full ring", func() bool { return a.Senders() == 1 })
	cancel()
	require.ErrorIs(t, fills(), context.Canceled)
	closed := testkit.Background(t, func() error {
		return a.CloseWith(testkit.Context(t), 1, "a goodbye")
	})
	testkit.Eventually(t, "a goodbye that waits", func() bool { return a.Senders() == 1 })
	require.NoError(t, a.Abort())
	require.ErrorIs(t, closed(), transport.ErrChannelClosed)
}

// Messages and the goodbye of a closed channel still arrive.
func TestRing_CloseComesAfterTheMessages(t *testing.T) {
	a, b := ringed(t, transport.Config{})
	warmRings(t, a, b)
	ctx := testkit.Context(t)
	for i := range 100 {
		require.NoError(t, a.Send(ctx, i))
	}
	require.NoError(t, a.CloseWith(ctx, 3, "done"))
	for i := range 100 {
		var got int
		require.NoError(t, b.Recv(ctx, &got))
		require.Equal(t, i, got)
	}
	var bye *transport.GoodbyeError
	require.ErrorAs(t, b.Recv(ctx, new(int)), &bye)
	require.Equal(t, "done", bye.Reason)
}

// Close leaves no mapping, descriptor or goroutine.
func TestRing_CloseFreesAll(t *testing.T) {
	noneShared(t)
	before := descriptors(t)
	a, b := ringed(t, transport.Config{})
	warmRings(t, a, b)
	assert.NotEmpty(t, shared(t))
	require.NoError(t, a.Close())
	b.Close() // it may know already that the peer is gone
	assert.Empty(t, shared(t))
	assert.ElementsMatch(t, before, descriptors(t))
}

// Without descriptors for it there is no ring, and all goes on in the socket.
func TestRing_NeedsDescriptors(t *testing.T) {
	a, b := ringed(t, transport.Config{})
	undo := testkit.ExhaustDescriptors(0)
	defer undo()
	for i := range 3 {
		exchange(t, a, b, pattern(i, 100))
	}
	undo()
	exchange(t, a, b, pattern(0, 100))
	assert.False(t, a.UsesRing())
}

// The connection cannot be taken over once a direction is in its ring.
func TestRing_TakeFails(t *testing.T) {
	a, b := ringed(t, transport.Config{})
	warmRings(t, a, b)
	_, _, err := frames(a).Take(testkit.Context(t))
	require.ErrorContains(t, err, "uses a ring")
	exchange(t, a, b, pattern(0, 100))
}

func TestRing_RefusesFrames(t *testing.T) {
	for name, c := range map[string]struct {
		agreed bool
		sent   []byte
		says   string
	}{
		"without the feature":    {false, frameOf(0x07), "unknown kind 0x07"},
		"enter without it":       {false, frameOf(0x08), "unknown kind 0x08"},
		"a body":                 {true, frameOf(0x07, 1), "ring frame of length 2"},
		"a body of enter":        {true, frameOf(0x08, 1), "enter frame of length 2"},
		"no ring":                {true, frameOf(0x08), "without a ring"},
		"a ring without files":   {true, append(frameOf(0x07), frameOf(0x08)...), "without a ring"},
		"two rings":              {true, append(frameOf(0x07), frameOf(0x07)...), "second ring"},
		"a ring behind a memory": {true, append(frameOf(0x04), frameOf(0x08)...), "without a ring"},
	} {
		t.Run(name, func(t *testing.T) {
			x, y := socketPair(t)
			ch := open(t, x, transport.Config{})
			frames(ch).Share()
			if c.agreed {
				frames(ch).UseRing()
			}
			_, err := y.Write(c.sent)
			require.NoError(t, err)
			_, err = ch.RecvBorrowed(testkit.Context(t))
			require.ErrorIs(t, err, transport.ErrProtocol)
			require.ErrorContains(t, err, c.says)
		})
	}
}

// hostileRing offers a ring over conn by the rules of docs/PROTOCOL-shm.md, and enters it.
// It returns the peer's own mapping, and the bell to wake the receiver.
func hostileRing(t testing.TB, conn net.Conn) (ring []byte, bell int) {
	t.Helper()
	page := os.Getpagesize()
	file := func(size int) int {
		fd, err := unix.MemfdCreate("hostile", unix.MFD_ALLOW_SEALING|unix.MFD_CLOEXEC)
		require.NoError(t, err)
		require.NoError(t, unix.Ftruncate(fd, int64(size)))
		return fd
	}
	fds := []int{file(page + hostileRingSize), file(page), -1, -1}
	for i := 2; i < 4; i++ {
		fd, err := unix.Eventfd(1<<31, unix.EFD_SEMAPHORE|unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
		require.NoError(t, err)
		fds[i] = fd
	}
	ring, err := unix.Mmap(fds[0], 0, page+hostileRingSize, unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_SHARED)
	require.NoError(t, err)
	t.Cleanup(func() { unix.Munmap(ring); unix.Close(fds[2]) })
	sizes := unix.F_SEAL_SHRINK | unix.F_SEAL_GROW
	_, err = unix.FcntlInt(uintptr(fds[1]), unix.F_ADD_SEALS, sizes)
	require.NoError(t, err)
	_, err = unix.FcntlInt(uintptr(fds[0]), unix.F_ADD_SEALS,
		sizes|unix.F_SEAL_FUTURE_WRITE|unix.F_SEAL_SEAL)
	require.NoError(t, err)
	_, _, err = conn.(*net.UnixConn).WriteMsgUnix(frameOf(frame.KindRing),
		unix.UnixRights(fds...), nil)
	require.NoError(t, err)
	_, err = conn.Write(frameOf(frame.KindEnter))
	require.NoError(t, err)
	for _, fd := range []int{fds[0], fds[1], fds[3]} {
		unix.Close(fd)
	}
	return ring, fds[2]
}

// hostileRingSize is small, so that messages wrap around often.
const hostileRingSize = 1000

// FuzzRingPeer is a peer that has any bytes and positions in its ring, and changes them
// while they are read. Each receive has a message or an error, and the channel ends with
// the peer.
func FuzzRingPeer(f *testing.F) {
	f.Add(uint64(20), frameOf(0x02, 1, 2, 3))
	f.Add(uint64(900), frameOf(0x01, 0x80))
	f.Add(uint64(1001), frameOf(0x02, make([]byte, 900)...))
	f.Add(^uint64(0)-5, frameOf(0x06, make([]byte, 8)...))
	f.Add(uint64(7), frameOf(0x22, 1, 2, 3, 4, 5, 6, 7, 8))
	f.Fuzz(func(t *testing.T, step uint64, content []byte) {
		x, y := socketPair(t)
		c := open(t, x, transport.Config{MaxFrameSize: 1 << 16})
		frames(c).Share()
		frames(c).UseRing()
		ring, bell := hostileRing(t, y)
		data := ring[os.Getpagesize():]
		for at := 0; len(content) > 0 && at < len(data); {
			at += copy(data[at:], content)
		}
		var changing sync.WaitGroup
		defer changing.Wait()
		changing.Go(func() {
			position := (*uint64)(unsafe.Pointer(&ring[0]))
			for i := uint64(1); i <= 200; i++ {
				atomic.StoreUint64(position, i*step)
				data[i*step%hostileRingSize] ^= byte(i)
				unix.Write(bell, make([]byte, 8))
				if i%50 == 0 {
					runtime.Gosched()
				}
			}
			y.Close()
		})
		for {
			lent, err := c.RecvBorrowed(t.Context())
			crc32.ChecksumIEEE(lent)
			if errors.Is(err, transport.ErrWrongKind) {
				err = c.Recv(t.Context(), new(any))
			}
			if err != nil && !errors.As(err, new(*transport.DecodeError)) {
				return
			}
		}
	})
}
