package slab

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/spawnwire/spawnwire/internal/testkit"
)

// pair returns memory with both its sides.
func pair(t testing.TB) (*Out, *In) {
	t.Helper()
	out, in := new(Out), new(In)
	t.Cleanup(func() { out.Close(); in.Close(); in.Release() })
	out.Offer(func(data, counter int) error {
		in.Offered(duplicate(t, data, counter))
		return nil
	})
	require.False(t, out.Ready())
	require.NoError(t, in.Map())
	require.True(t, out.Ready())
	return out, in
}

func duplicate(t testing.TB, fds ...int) (copies []int) {
	t.Helper()
	for _, fd := range fds {
		again, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		require.NoError(t, err)
		copies = append(copies, again)
	}
	return copies
}

// Messages of many sizes come as they were sent, while several are under way.
func TestSlab_MessagesComeAsTheyWere(t *testing.T) {
	out, in := pair(t)
	rng := rand.New(rand.NewPCG(1, 2))
	type sent struct {
		ref  Ref
		body []byte
	}
	var under []sent
	refused := 0
	for i := range 300 {
		body := bytes.Repeat([]byte{byte(i), byte(i >> 8), 1}, 1+rng.IntN(1<<20))
		ref, ok := out.Put(body)
		if ok {
			out.Commit(ref)
			under = append(under, sent{ref, body})
		} else {
			refused++
		}
		for len(under) > 0 && (!ok || rng.IntN(3) == 0) {
			require.NoError(t, in.Check(under[0].ref))
			require.True(t, bytes.Equal(under[0].body, in.Take(under[0].ref)))
			in.Release()
			under, ok = under[1:], true
		}
	}
	assert.NotZero(t, refused, "it was full")
}

// The memory of all senders together is bounded, and is free again after Close.
func TestSlab_BudgetIsOfTheProcess(t *testing.T) {
	body := make([]byte, Size)
	var senders []*Out
	for range Budget / Size {
		out, _ := pair(t)
		_, ok := out.Put(body)
		require.True(t, ok)
		senders = append(senders, out)
	}
	late, _ := pair(t)
	_, ok := late.Put(body[:1])
	require.False(t, ok, "there is no more")
	senders[0].Close()
	_, ok = late.Put(body)
	require.True(t, ok)
}

// All of the memory can be used again. Without a Commit a part is free.
func TestSlab_AllIsFreeAgain(t *testing.T) {
	out, in := pair(t)
	all := make([]byte, Size)
	for range 3 {
		_, ok := out.Put(all)
		require.True(t, ok)
	}
	ref, ok := out.Put(all)
	require.True(t, ok)
	out.Commit(ref)
	_, ok = out.Put([]byte{1})
	require.False(t, ok)
	require.NoError(t, in.Check(ref))
	in.Take(ref)
	in.Release()
	_, ok = out.Put(all)
	require.True(t, ok)
	_, ok = out.Put(make([]byte, Size+1))
	require.False(t, ok)
}

// Nobody but the sender can write to its memory, or change its size; nobody but the
// receiver can map its counter to write.
func TestSlab_IsSealed(t *testing.T) {
	out, in := new(Out), new(In)
	var fds []int
	out.Offer(func(data, counter int) error {
		fds = duplicate(t, data, counter)
		in.Offered(duplicate(t, data, counter))
		return nil
	})
	require.NoError(t, in.Map())
	defer out.Close()
	defer in.Close()
	defer closeAll(fds)
	for _, fd := range fds {
		assert.ErrorIs(t, unix.Ftruncate(fd, 0), unix.EPERM)
		assert.ErrorIs(t, unix.Ftruncate(fd, MaxSize), unix.EPERM)
		_, err := unix.Mmap(fd, 0, 1, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		assert.ErrorIs(t, err, unix.EPERM)
		_, err = unix.Pwrite(fd, []byte{1}, 0)
		assert.ErrorIs(t, err, unix.EPERM)
		assert.ErrorIs(t, unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE,
			0, 4096), unix.EPERM)
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_WRITE)
		assert.ErrorIs(t, err, unix.EPERM)
	}
	assert.ErrorIs(t, unix.Madvise(out.data, unix.MADV_REMOVE), unix.EPERM)
}

// memory returns a file with these seals.
func memory(t testing.TB, size int64, flags, seals int) int {
	t.Helper()
	fd, err := unix.MemfdCreate("hostile", unix.MFD_ALLOW_SEALING|unix.MFD_CLOEXEC|flags)
	if err != nil {
		t.Skip(err)
	}
	require.NoError(t, unix.Ftruncate(fd, size))
	_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals)
	require.NoError(t, err)
	return fd
}

func TestMap_RefusesOtherMemory(t *testing.T) {
	page := int64(os.Getpagesize())
	counter := func(t *testing.T) int { return memory(t, page, 0, fixed) }
	data := func(t *testing.T) int { return memory(t, page, 0, owned) }
	for name, files := range map[string]func(*testing.T) (int, int){
		"can shrink": func(t *testing.T) (int, int) {
			return memory(t, page, 0, owned&^unix.F_SEAL_SHRINK), counter(t)
		},
		"can be written": func(t *testing.T) (int, int) {
			return memory(t, page, 0, owned&^unix.F_SEAL_FUTURE_WRITE), counter(t)
		},
		"can get seals": func(t *testing.T) (int, int) {
			return memory(t, page, 0, owned&^unix.F_SEAL_SEAL), counter(t)
		},
		"empty": func(t *testing.T) (int, int) { return memory(t, 0, 0, owned), counter(t) },
		"too large": func(t *testing.T) (int, int) {
			return memory(t, MaxSize+page, 0, owned), counter(t)
		},
		"huge pages": func(t *testing.T) (int, int) {
			return memory(t, 2<<20, unix.MFD_HUGETLB, owned), counter(t)
		},
		"a counter that can shrink": func(t *testing.T) (int, int) {
			return data(t), memory(t, page, 0, unix.F_SEAL_GROW)
		},
		"a counter that cannot be written": func(t *testing.T) (int, int) {
			return data(t), memory(t, page, 0, fixed|unix.F_SEAL_WRITE)
		},
		"a counter that cannot be sealed": func(t *testing.T) (int, int) {
			return data(t), memory(t, page, 0, fixed|unix.F_SEAL_SEAL)
		},
		"an empty counter": func(t *testing.T) (int, int) {
			return data(t), memory(t, 0, 0, fixed)
		},
		"a pipe": func(t *testing.T) (int, int) {
			var p [2]int
			require.NoError(t, unix.Pipe2(p[:], unix.O_CLOEXEC))
			return p[0], p[1]
		},
	} {
		t.Run(name, func(t *testing.T) {
			in := new(In)
			a, b := files(t)
			in.Offered([]int{a, b})
			require.Error(t, in.Map())
			require.Error(t, in.Check(Ref{0, 1}))
			require.False(t, in.Close())
		})
	}
	require.ErrorIs(t, new(In).Map(), ErrNoMemory)
}

var zeros [1 << 20]byte

// corruptions returns how many states a test of corrupted memory tries.
func corruptions() int {
	if testkit.IsLong() {
		return 1_000_000
	}
	return 20_000
}

// positionNear returns a number that is often near a limit.
func positionNear(rng *rand.Rand, limits ...uint64) uint64 {
	if rng.IntN(4) == 0 {
		return rng.Uint64() >> rng.IntN(64)
	}
	return limits[rng.IntN(len(limits))] + uint64(rng.IntN(5)) - 2
}

// The other side of a slab names any place and has any number in its counter.
func TestCorrupted_Slabs(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	out, in := pair(t)
	refused, dropped := 0, 0
	for range corruptions() {
		ref := Ref{uint32(positionNear(rng, 0, Size, 1<<32-1)),
			uint32(positionNear(rng, 0, 64, Size, 1<<32-1))}
		if in.Check(ref) == nil {
			b := in.Take(ref)
			require.Len(t, b, int(ref.Size))
			_ = b[0] ^ b[len(b)-1]
			in.Release()
		} else {
			refused++
		}
		count := out.count + rng.Uint64N(uint64(len(out.inUse)+1))
		if rng.IntN(1000) == 0 {
			count = positionNear(rng, out.count, out.count+uint64(len(out.inUse)), 0, 1<<63)
		}
		store(in.counter, count)
		if ref, ok := out.Put(zeros[:1+rng.IntN(200)]); ok {
			require.LessOrEqual(t, uint64(ref.At)+uint64(ref.Size), uint64(Size))
			out.Commit(ref)
		} else if !out.Ready() && out.off { // it does not share any more
			out.Close()
			in.Close()
			dropped++
			out, in = pair(t)
		}
	}
	require.NotZero(t, refused)
	require.NotZero(t, dropped)
}

// FuzzSlab has a receiver with any number in its counter, and a sender with any place.
// Neither side crashes, and a sender never writes over a message in use.
func FuzzSlab(f *testing.F) {
	f.Add([]byte{1, 2, 3, 4, 5, 6, 7, 8, 9})
	f.Add(bytes.Repeat([]byte{0, 200}, 50))
	f.Add(bytes.Repeat([]byte{2, 0, 0, 0, 0, 255, 255, 255, 255}, 9))
	f.Fuzz(func(t *testing.T, script []byte) {
		out, in := pair(t)
		next := func(n int) uint64 {
			var b [8]byte
			script = script[copy(b[:n], script):]
			return binary.LittleEndian.Uint64(b[:])
		}
		for len(script) > 0 {
			switch next(1) % 3 {
			case 0:
				if ref, ok := out.Put(zeros[:1+16*next(2)]); ok {
					for _, s := range out.inUse {
						require.True(t, int(ref.At) >= s.end || int(ref.At+ref.Size) <= s.begin)
					}
					out.Commit(ref)
				}
			case 1:
				store(in.counter, next(8)>>(8*next(1)))
			default:
				ref := Ref{uint32(next(4)), uint32(next(4))}
				if in.Check(ref) == nil {
					require.Len(t, in.Take(ref), int(ref.Size))
					bytes.Count(in.Take(ref), []byte{1})
					in.Release()
					in.Release()
				}
			}
		}
		out.Close()
		require.False(t, in.Close())
	})
}
