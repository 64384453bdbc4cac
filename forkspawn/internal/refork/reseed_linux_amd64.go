package refork

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The runtime's random state, internal/chacha8rand.State: a block of 32 random numbers, the seed that it was
// made from, with a counter c that goes up by 4 a block to 16, and which of its first n numbers come next.
const (
	randSeed    = 32 * 8         // offset of seed [4]uint64
	randNext    = randSeed + 4*8 // of i uint32
	randLimit   = randNext + 4   // of n uint32
	randCounter = randLimit + 4  // of c uint32
	randSize    = randCounter + 8
)

// isRand checks what of a random state can be checked at every fork; findLayout has computed its block anew.
func isRand(state uintptr) bool {
	i, n, c := *at32(state + randNext), *at32(state + randLimit), *at32(state + randCounter)
	return i <= n && n <= 32 && c < 16 && c%4 == 0
}

// reseed gives each thread of the child, and those that it will start, other random numbers than the parent
// has. A state with an empty block and a changed seed makes a new block when it is asked next.
//
// A thread that was frozen while it made a block finishes that from the old seed, and repeats up to 32
// numbers of the parent's.
func reseed(a *arena) {
	n := uintptr(slots(a)+2) * 32
	for got := uintptr(0); got < n; {
		r, _, e := syscall.RawSyscall(unix.SYS_GETRANDOM, uintptr(unsafe.Pointer(&a.random[got])), n-got, 0)
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
