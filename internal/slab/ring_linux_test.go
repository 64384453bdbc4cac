package slab

import (
	"bytes"
	"encoding/binary"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/spawnwire/spawnwire/internal/testkit"
)

// ringPair returns a ring with both its ends.
func ringPair(t testing.TB) (*RingOut, *RingIn) {
	t.Helper()
	out, in := new(RingOut), new(RingIn)
	t.Cleanup(func() { out.Close(); in.Close() })
	out.Offer(func(fds ...int) error {
		in.Offered(duplicate(t, fds...))
		return nil
	})
	require.False(t, out.Ready())
	require.NoError(t, in.Map())
	require.True(t, out.Ready())
	return out, in
}

// send writes p and waits for room as often as needed.
func send(out *RingOut, p []byte) error {
	for len(p) > 0 {
		n, err := out.Write(nil, p)
		if err != nil {
			return err
		}
		if p = p[n:]; n == 0 {
			if err := out.Wait(); err != nil {
				return err
			}
		}
	}
	return nil
}

// receive fills p.
func receive(in *RingIn, p []byte) error {
	for len(p) > 0 {
		n, err := in.Read(p)
		if err != nil {
			return err
		}
		if p = p[n:]; n == 0 {
			if err := in.Wait(); err != nil {
				return err
			}
		}
	}
	return nil
}

// Bytes come in their order, also if each side waits for the other again and again.
func TestRing_BytesComeAsTheyWere(t *testing.T) {
	out, in := ringPair(t)
	all := make([]byte, 5*RingSize+12345)
	rng := rand.NewChaCha8([32]byte{1})
	rng.Read(all)
	sent := testkit.Background(t, func() error {
		sizes := rand.New(rand.NewPCG(1, 2))
		for rest := all; len(rest) > 0; {
			n := min(len(rest), 1+sizes.IntN(1<<sizes.IntN(20)))
			if err := send(out, rest[:n]); err != nil {
				return err
			}
			rest = rest[n:]
		}
		return nil
	})
	sizes, got := rand.New(rand.NewPCG(3, 4)), make([]byte, len(all))
	for rest := got; len(rest) > 0; {
		n := min(len(rest), 1+sizes.IntN(1<<sizes.IntN(20)))
		require.NoError(t, receive(in, rest[:n]))
		rest = rest[n:]
	}
	require.NoError(t, sent())
	require.True(t, bytes.Equal(all, got))
}

func TestRing_FullAndEmpty(t *testing.T) {
	out, in := ringPair(t)
	p := make([]byte, RingSize+1)
	n, err := in.Read(p)
	require.NoError(t, err)
	require.Zero(t, n)
	require.True(t, out.HasRoom(RingSize))
	require.False(t, out.HasRoom(RingSize+1))
	for _, want := range []int{RingSize, 0} {
		n, err = out.Write(nil, p)
		require.NoError(t, err)
		require.Equal(t, want, n)
	}
	require.False(t, out.HasRoom(1))
	n, err = in.Read(p)
	require.NoError(t, err)
	require.Equal(t, RingSize, n)
}

// A wait ends with its reason, whichever side waits.
func TestRing_WaitsEnd(t *testing.T) {
	for name, c := range map[string]struct {
		end  func(s *ringSide, closeIt func())
		want error
	}{
		"an interrupt": {func(s *ringSide, _ func()) { s.Interrupt(true) }, os.ErrDeadlineExceeded},
		"the end":      {func(s *ringSide, _ func()) { s.End() }, nil},
		"a close":      {func(_ *ringSide, closeIt func()) { closeIt() }, net.ErrClosed},
	} {
		t.Run(name, func(t *testing.T) {
			out, _ := ringPair(t)
			require.NoError(t, send(out, make([]byte, RingSize))) // no room
			_, empty := ringPair(t)
			_, err := empty.Read(make([]byte, 1))
			require.NoError(t, err)
			_, err = out.Write(nil, []byte{1})
			require.NoError(t, err)
			for s, closeIt := range map[*ringSide]func(){
				&out.ringSide: out.Close, &empty.ringSide: empty.Close,
			} {
				waits := testkit.Background(t, s.Wait)
				testkit.Eventually(t, "a wait", func() bool {
					s.mu.Lock()
					defer s.mu.Unlock()
					return s.wait&isWaiting != 0
				})
				c.end(s, closeIt)
				require.ErrorIs(t, waits(), c.want)
			}
		})
	}
}

// The receiver reads the last bytes after the end.
func TestRing_EndComesAfterTheBytes(t *testing.T) {
	out, in := ringPair(t)
	require.NoError(t, send(out, []byte("last words")))
	out.Close()
	in.End()
	p := make([]byte, 20)
	n, err := in.Read(p)
	require.NoError(t, err)
	require.Equal(t, "last words", string(p[:n]))
	_, err = in.Read(p)
	require.ErrorIs(t, err, io.EOF)

	out, in = ringPair(t)
	in.Close()
	out.End()
	_, err = out.Write(nil, p)
	require.ErrorIs(t, err, syscall.EPIPE)
}

func TestRing_IsSealedAndFreed(t *testing.T) {
	before := shared.Load()
	out, in := new(RingOut), new(RingIn)
	var fds []int
	out.Offer(func(all ...int) error {
		fds = duplicate(t, all[:2]...)
		in.Offered(duplicate(t, all...))
		return nil
	})
	defer closeAll(fds)
	require.NoError(t, in.Map())
	assert.Equal(t, before+ringMemory(), shared.Load())
	for _, fd := range fds {
		assert.ErrorIs(t, unix.Ftruncate(fd, 0), unix.EPERM)
		_, err := unix.Mmap(fd, 0, 1, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		assert.ErrorIs(t, err, unix.EPERM)
	}
	for range 2 {
		out.Close()
		in.Close()
	}
	assert.Equal(t, before, shared.Load())
	_, err := in.Read(make([]byte, 1))
	require.ErrorIs(t, err, net.ErrClosed)
	_, err = out.Write(nil, []byte{1})
	require.ErrorIs(t, err, net.ErrClosed)
	require.ErrorIs(t, in.Wait(), net.ErrClosed)
}

func TestRing_RefusesOtherFiles(t *testing.T) {
	page := int64(os.Getpagesize())
	data := func() int { return memory(t, page+RingSize, 0, owned) }
	words := func() int { return memory(t, page, 0, fixed) }
	bell := func() int {
		fd, err := unix.Eventfd(1<<31, unix.EFD_SEMAPHORE)
		require.NoError(t, err)
		return fd
	}
	pipe := func() int {
		var p [2]int
		require.NoError(t, unix.Pipe2(p[:], unix.O_CLOEXEC))
		unix.Close(p[0])
		return p[1]
	}
	for name, fds := range map[string][]int{
		"can be written": {memory(t, page+RingSize, 0, fixed), words(), bell(), bell()},
		"no bytes":       {memory(t, page, 0, owned), words(), bell(), bell()},
		"a large page":   {data(), memory(t, 2*page, 0, fixed), bell(), bell()},
		"a pipe":         {data(), words(), pipe(), bell()},
		"another pipe":   {data(), words(), bell(), pipe()},
		"a file":         {data(), words(), bell(), memory(t, page, 0, owned)},
		"three":          {data(), words(), bell()},
	} {
		t.Run(name, func(t *testing.T) {
			in := new(RingIn)
			in.Offered(fds)
			require.Error(t, in.Map())
			require.False(t, in.Mapped())
			for _, fd := range fds {
				_, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
				require.ErrorIs(t, err, unix.EBADF)
			}
		})
	}
	in := new(RingIn)
	in.Offered([]int{data(), words(), bell(), bell()}) // and these are right
	require.NoError(t, in.Map())
	in.Close()
}

// The other side of a ring has any words in its page. A read or write returns an error, or
// handles no more bytes than the ring has.
func TestCorrupted_Rings(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	out, in := ringPair(t)
	p, q := make([]byte, 200), make([]byte, 200)
	refused := 0
	for range corruptions() {
		near := func(pos uint64) uint64 {
			return positionNear(rng, pos, pos+RingSize, pos-RingSize, 0, 1<<63)
		}
		for at := range out.data[:64] {
			out.data[at] = byte(rng.Uint32())
		}
		atomic.StoreUint64(positionOf(out.own), near(in.position))
		atomic.StoreUint32(waitOf(out.own), rng.Uint32())
		n, err := in.Read(p[:rng.IntN(len(p))])
		require.LessOrEqual(t, n, len(p))
		if err != nil {
			require.ErrorIs(t, err, ErrRing)
			refused++
		}
		atomic.StoreUint64(positionOf(in.own), near(out.position))
		atomic.StoreUint32(waitOf(in.own), rng.Uint32())
		n, err = out.Write(nil, q[:rng.IntN(len(q))])
		require.LessOrEqual(t, n, len(q))
		if err != nil {
			require.ErrorIs(t, err, ErrRing)
			refused++
		}
	}
	require.NotZero(t, refused)
}

// FuzzRing has a peer that changes its words and bytes while they are read. The reads get
// as many bytes as they report, and a wait ends when the peer rings.
func FuzzRing(f *testing.F) {
	f.Add(uint64(1), []byte{1, 2, 3, 200})
	f.Add(uint64(RingSize), bytes.Repeat([]byte{255}, 40))
	f.Add(^uint64(0)-RingSize, []byte{0, 1, 0, 1})
	f.Fuzz(func(t *testing.T, step uint64, sizes []byte) {
		out, in := ringPair(t)
		var changing sync.WaitGroup
		var over atomic.Bool
		changing.Go(func() {
			for i := uint64(1); !over.Load(); i++ {
				atomic.StoreUint64(positionOf(out.own), i*step)
				atomic.AddUint32(waitOf(out.own), uint32(i))
				atomic.StoreUint64(positionOf(in.own), i*step)
				atomic.AddUint32(waitOf(in.own), uint32(i))
				out.data[i%RingSize]++
			}
		})
		p := make([]byte, 256)
		for _, size := range sizes {
			n, err := in.Read(p[:size])
			require.LessOrEqual(t, n, int(size))
			require.True(t, err == nil || err == ErrRing)
			n, err = out.Write(nil, p[:size])
			require.LessOrEqual(t, n, int(size))
			require.True(t, err == nil || err == ErrRing)
		}
		over.Store(true)
		changing.Wait()
	})
}

// A peer can empty or fill a bell and make its file block. A ring does not wait for that.
func TestRing_BellNeverBlocks(t *testing.T) {
	empty, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	require.NoError(t, err)
	bells, err := newBells()
	require.NoError(t, err)
	defer closeAll([]int{empty, bells[0], bells[1]})
	require.ErrorIs(t, ring(empty), unix.EAGAIN)

	fillBell(t, bells[0])
	require.NoError(t, unix.SetNonblock(bells[0], false))
	require.NoError(t, ring(bells[0]))
}

// fillBell counts to the largest uint64. A write cannot do that, but the kernel counts the
// ends of asynchronous reads too.
func fillBell(t *testing.T, bell int) {
	almost := binary.NativeEndian.AppendUint64(nil, math.MaxUint64-2-bellValue)
	_, err := unix.Write(bell, almost)
	require.NoError(t, err)
	var queue uintptr
	_, _, errno := unix.Syscall(unix.SYS_IO_SETUP, 8, uintptr(unsafe.Pointer(&queue)), 0)
	if errno != 0 {
		t.Skip("no asynchronous input here:", errno)
	}
	defer unix.Syscall(unix.SYS_IO_DESTROY, queue, 0, 0)
	file := memory(t, 8, 0, fixed)
	defer unix.Close(file)
	for range 4 {
		read := &struct { // struct iocb of io_submit(2)
			data            uint64
			key, rwFlags    uint32
			opcode          uint16
			priority        int16
			file            uint32
			buf, size       uint64
			offset, unused  int64
			flags, signalTo uint32
		}{file: uint32(file), flags: 1, signalTo: uint32(bell)}
		_, _, errno := unix.Syscall(unix.SYS_IO_SUBMIT, queue, 1, uintptr(unsafe.Pointer(&read)))
		require.Zero(t, errno)
	}
	_, err = unix.Write(bell, make([]byte, 8))
	require.ErrorIs(t, err, unix.EAGAIN, "full")
}
