//go:build amd64 || arm64

package refork

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The offsets in the runtime's random state (internal/chacha8rand.State). It
// begins with a block of 32 random numbers. The counter c grows by 4 with each
// block, up to 16. i is the next of the block's first n numbers.
const (
	randSeed    = 32 * 8         // offset of seed [4]uint64
	randNext    = randSeed + 4*8 // of i uint32
	randLimit   = randNext + 4   // of n uint32
	randCounter = randLimit + 4  // of c uint32
	randSize    = randCounter + 8
)

// isRand makes the quick checks of a random state. findLayout has also computed
// its block.
func isRand(state uintptr) bool {
	i, n, c := *at32(state + randNext), *at32(state + randLimit), *at32(state + randCounter)
	return i <= n && n <= 32 && c < 16 && c%4 == 0
}

// reseed gives each thread of the child, and those started later, other random
// numbers than the parent's. A state with an empty block and a changed seed
// makes a new block for the next number.
//
// A thread that was frozen while it made a block completes it from the old
// seed, and repeats up to 32 numbers of the parent.
func reseed(a *arena) {
	n := uintptr(slots(a)+2) * 32
	for got := uintptr(0); got < n; {
		r, _, e := syscall.RawSyscall(unix.SYS_GETRANDOM,
			uintptr(unsafe.Pointer(&a.random[got])), n-got, 0)
		if e != 0 {
			die("getrandom\n", e)
		}
		got += r
	}
	fresh := uintptr(unsafe.Pointer(&a.random))
	mix(a.layout.globalRand, fresh)
	mix(a.self.m+a.layout.chacha, fresh+32)
	for i := range slots(a) {
		if s := &a.slots[i]; s.gen == a.gen {
			mix(s.m+a.layout.chacha, fresh+uintptr(i+2)*32)
		}
	}
}

func mix(state, fresh uintptr) {
	for i := uintptr(0); i < 32; i += 8 {
		*at(state + randSeed + i) ^= *at(fresh + i)
	}
	*at32(state + randNext) = 0
	*at32(state + randLimit) = 0
	*at32(state + randCounter) = 0
}
