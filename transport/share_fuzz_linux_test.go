package transport_test

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/spawnwire/spawnwire/internal/frame"
	"github.com/spawnwire/spawnwire/transport"
)

// hostileSize is the size of the memory of a hostile peer.
const hostileSize = 1 << 20

// hostileMemory offers memory over conn by the rules of docs/PROTOCOL-shm.md. It returns
// the peer's own mapping.
func hostileMemory(t testing.TB, conn net.Conn) []byte {
	t.Helper()
	file := func(size int64) int {
		fd, err := unix.MemfdCreate("hostile", unix.MFD_ALLOW_SEALING|unix.MFD_CLOEXEC)
		require.NoError(t, err)
		require.NoError(t, unix.Ftruncate(fd, size))
		return fd
	}
	data, counter := file(hostileSize), file(int64(os.Getpagesize()))
	defer unix.Close(data)
	defer unix.Close(counter)
	b, err := unix.Mmap(data, 0, hostileSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	require.NoError(t, err)
	t.Cleanup(func() { unix.Munmap(b) })
	sizes := unix.F_SEAL_SHRINK | unix.F_SEAL_GROW
	_, err = unix.FcntlInt(uintptr(counter), unix.F_ADD_SEALS, sizes)
	require.NoError(t, err)
	_, err = unix.FcntlInt(uintptr(data), unix.F_ADD_SEALS,
		sizes|unix.F_SEAL_FUTURE_WRITE|unix.F_SEAL_SEAL)
	require.NoError(t, err)
	_, _, err = conn.(*net.UnixConn).WriteMsgUnix(frameOf(frame.KindMemory),
		unix.UnixRights(data, counter), nil)
	require.NoError(t, err)
	return b
}

// FuzzShared is a peer that names places in its memory as it likes, and changes the memory
// while it is read. Each receive has a message or an error, and a decoded message does not
// change any more.
func FuzzShared(f *testing.F) {
	place := func(at, size uint32) []byte {
		return binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, at), size)
	}
	f.Add(place(0, 70_000), []byte{0x5a, 0, 1, 0x11, 0x6b})
	f.Add(place(hostileSize-100_000, 100_000), []byte{0xa1, 0x61, 'a', 0x5a, 0, 1, 0x11, 0x6b})
	f.Add(place(1<<31, 1<<31), []byte{0x80})
	f.Add(place(hostileSize-1, 2), []byte{0xff})
	f.Add(append(place(5, 9), place(0, hostileSize)...), []byte{0x9b, 0xff})
	f.Fuzz(func(t *testing.T, places, content []byte) {
		x, y := socketPair(t)
		c := open(t, x, transport.Config{MaxFrameSize: hostileSize})
		frames(c).Share()
		memory := hostileMemory(t, y)
		for at := 0; len(content) > 0 && at < len(memory); at += 70_000 {
			copy(memory[at:], content)
		}
		var changing sync.WaitGroup
		defer changing.Wait()
		var over atomic.Bool
		defer over.Store(true)
		changing.Go(func() {
			for i := uint32(1); !over.Load(); i = i*1664525 + 1013904223 {
				memory[i%hostileSize] += byte(i >> 24)
				memory[i>>24%16] ^= 1 << (i >> 8 % 8) // the heads of the items
			}
		})
		var sent sync.WaitGroup
		defer sent.Wait()
		defer c.Abort()
		sent.Go(func() {
			for i := 0; i+8 <= len(places); i += 8 {
				kind := frame.KindSharedRaw - frame.Kind(i/8%2)
				if _, err := y.Write(frameOf(kind, places[i:i+8]...)); err != nil {
					return
				}
			}
			y.(*net.UnixConn).CloseWrite()
		})
		for {
			var data transport.Bytes
			lent, err := c.RecvBorrowed(t.Context())
			crc32.ChecksumIEEE(lent)
			if errors.Is(err, transport.ErrWrongKind) {
				err = c.Recv(t.Context(), &data)
				sum := crc32.ChecksumIEEE(data)
				require.Equal(t, sum, crc32.ChecksumIEEE(data))
			}
			if err != nil && !errors.As(err, new(*transport.DecodeError)) {
				require.True(t, errors.Is(err, transport.ErrProtocol) ||
					errors.Is(err, transport.ErrPeerGone), err)
				return
			}
		}
	})
}
