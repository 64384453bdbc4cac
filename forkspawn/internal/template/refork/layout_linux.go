//go:build amd64 || arm64

package refork

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
)

// The parts of an m that are searched, in bytes.
const (
	searchProcid = 1024
	searchRand   = 2048
)

// findLayout finds the runtime's variables for a fork. It finds each by its
// content, and exactly once.
func findLayout() (layout, error) {
	var l layout
	// a read of a wrong address returns an error here, and does not end the program
	mem, err := os.Open("/proc/self/mem")
	if err != nil {
		return l, &Refused{Reason: "no look at this process's own memory", Err: err}
	}
	defer mem.Close()

	if err := findThreadLayout(&l, mem); err != nil {
		return l, err
	}
	data, err := dataSegment()
	if err != nil {
		return l, err
	}
	if err := findGlobalRand(&l, data); err != nil {
		return l, err
	}
	if err := findPoller(&l, data); err != nil {
		return l, err
	}
	return l, findVDSO(&l)
}

// findThreadLayout looks at four threads, and takes the offsets that fit all.
func findThreadLayout(l *layout, mem *os.File) error {
	const threads = 4
	var (
		found   [threads]threadLayout
		errs    [threads]error
		tids    [threads]int
		ready   sync.WaitGroup
		done    sync.WaitGroup
		release = make(chan struct{})
	)
	ready.Add(threads)
	for i := range threads {
		done.Go(func() {
			// A thread ends with a goroutine that is locked to it, so that no
			// fork has to freeze it. The process's first thread must stay.
			runtime.LockOSThread()
			if tids[i] = syscall.Gettid(); tids[i] == os.Getpid() {
				defer runtime.UnlockOSThread()
			}
			found[i], errs[i] = lookAtThread(mem)
			ready.Done()
			<-release // so that each has a thread of its own
		})
	}
	ready.Wait()
	close(release)
	done.Wait()
	for _, tid := range tids {
		// A thread at its end is hard to freeze.
		for range 100 {
			if _, err := os.Stat(fmt.Sprintf("/proc/self/task/%d", tid)); err != nil ||
				tid == os.Getpid() {
				break
			}
			syscall.Nanosleep(&syscall.Timespec{Nsec: 50_000}, nil)
		}
	}
	if err := errors.Join(errs[:]...); err != nil {
		return err
	}

	procid, chacha, preempted := found[0].procid, found[0].chacha, found[0].preempted
	for _, f := range found[1:] {
		procid, chacha, preempted = common(procid, f.procid), common(chacha, f.chacha),
			common(preempted, f.preempted)
		if f.tls != found[0].tls {
			return cgoLinked()
		}
	}
	if len(procid) != 1 {
		return unknownRuntime(fmt.Sprintf("m.procid was found in %d places", len(procid)))
	}
	if len(chacha) != 1 {
		return unknownRuntime(
			fmt.Sprintf("a thread's random state was found in %d places", len(chacha)))
	}
	l.procid, l.chacha, l.tls = procid[0], chacha[0], found[0].tls
	if len(preempted) == 1 {
		l.preempted = preempted[0]
	}
	return nil
}

// unknownRuntime returns the error for a runtime with another layout.
func unknownRuntime(what string) error {
	return &Refused{Reason: what + " in the runtime of " + runtime.Version(),
		Remedy: "use the start method exec with this version of Go"}
}

type threadLayout struct {
	tls            uintptr
	procid, chacha []uintptr
	preempted      []uintptr
}

// lookAtThread looks at the calling thread.
func lookAtThread(mem *os.File) (threadLayout, error) {
	var t threadLayout
	g := currentG()
	m, err := readWord(mem, g+offsetM)
	if err != nil {
		return t, unknownRuntime("no m at g+48")
	}
	// The first word of an m is its g0, and the m of g0 is that m.
	if g0, err := readWord(mem, m); err != nil {
		return t, unknownRuntime("no m at g+48")
	} else if back, err := readWord(mem, g0+offsetM); err != nil || back != m {
		return t, unknownRuntime("no m at g+48")
	}
	if t.tls = tlsMark(threadPointer(), m); t.tls > maxTLSMark {
		return t, cgoLinked()
	}
	content := make([]byte, searchRand)
	for range 10 { // the runtime can use the random state meanwhile
		if _, err := mem.ReadAt(content, int64(m)); err != nil {
			return t, &Refused{Reason: "no look at this process's own memory", Err: err}
		}
		t.procid, t.chacha = nil, nil
		for off := 0; off < searchProcid; off += 8 {
			if binary.LittleEndian.Uint64(content[off:]) == uint64(syscall.Gettid()) {
				t.procid = append(t.procid, uintptr(off))
			}
		}
		for off := 0; off+randSize <= len(content); off += 8 {
			if computesTo(content[off:]) {
				t.chacha = append(t.chacha, uintptr(off))
			}
		}
		if len(t.chacha) > 0 {
			break
		}
	}
	t.preempted, err = findPreempted(mem, m)
	return t, err
}

// findPreempted finds m.signalPending by the effect of the preemption signal:
// one word of the m counts up, and the next one becomes zero. With
// GODEBUG=asyncpreemptoff=1 it finds none.
func findPreempted(mem *os.File, m uintptr) ([]uintptr, error) {
	const signals = 3
	before, after := make([]byte, searchRand), make([]byte, searchRand)
	// handled before it returns
	send := func() { syscall.Tgkill(os.Getpid(), syscall.Gettid(), syscall.SIGURG) }
	if _, err := mem.ReadAt(before, int64(m)); err != nil {
		return nil, &Refused{Reason: "no look at this process's own memory", Err: err}
	}
	for range signals {
		send()
	}
	if _, err := mem.ReadAt(after, int64(m)); err != nil {
		return nil, &Refused{Reason: "no look at this process's own memory", Err: err}
	}
	var found []uintptr
	for off := 0; off+8 <= len(before); off += 4 {
		count, pending := binary.LittleEndian.Uint32(after[off:]),
			binary.LittleEndian.Uint32(after[off+4:])
		if count-binary.LittleEndian.Uint32(before[off:]) != signals || pending != 0 {
			continue
		}
		word := at32(m + uintptr(off) + 4)
		if !atomic.CompareAndSwapUint32(word, 0, 1) {
			continue
		}
		send()
		if atomic.CompareAndSwapUint32(word, 1, 0) {
			continue // the signal has not cleared it
		}
		found = append(found, uintptr(off)+4)
	}
	return found, nil
}

func cgoLinked() *Refused {
	return &Refused{Reason: "this program is linked with cgo, whose C library would not survive it",
		Remedy: "build with CGO_ENABLED=0"}
}

func readWord(mem *os.File, addr uintptr) (uintptr, error) {
	var b [8]byte
	_, err := mem.ReadAt(b[:], int64(addr))
	return uintptr(binary.LittleEndian.Uint64(b[:])), err
}

func common(a, b []uintptr) []uintptr {
	var both []uintptr
	for _, x := range a {
		for _, y := range b {
			if x == y {
				both = append(both, x)
			}
		}
	}
	return both
}

// computesTo reports whether seed and counter of a random state yield its
// block. The generator of math/rand/v2 is the same, and its output is
// documented.
func computesTo(state []byte) bool {
	next := binary.LittleEndian.Uint32(state[randNext:])
	limit := binary.LittleEndian.Uint32(state[randLimit:])
	counter := binary.LittleEndian.Uint32(state[randCounter:])
	if next > limit || limit == 0 || limit > 32 || counter >= 16 || counter%4 != 0 {
		return false
	}
	if bytes.Count(state[randSeed:randNext], []byte{0}) > 16 {
		return false // not a seed
	}
	generator := rand.NewChaCha8([32]byte(state[randSeed:randNext]))
	for range counter / 4 * 32 {
		generator.Uint64()
	}
	for i := range limit {
		if generator.Uint64() != binary.LittleEndian.Uint64(state[i*8:]) {
			return false
		}
	}
	return true
}

// findGlobalRand finds the runtime's globalRand: 32 bytes of seed, zeroed after
// use, the state, and true. It reads only pages that were written to. Reads of
// large empty variables would fill page tables, which every fork copies.
func findGlobalRand(l *layout, data segment) error {
	pagemap, _ := os.Open("/proc/self/pagemap")
	defer pagemap.Close()
	var found []uintptr
	for _, part := range resident(pagemap, data) {
		for state := part.from + 32; state+randSize+8 <= part.to; state += 8 {
			if isGlobalRand(state) {
				found = append(found, state)
			}
		}
	}
	if len(found) != 1 {
		return unknownRuntime(
			fmt.Sprintf("the global random state was found in %d places", len(found)))
	}
	l.globalRand = found[0]
	return nil
}

func isGlobalRand(state uintptr) bool {
	if *at(state + randSize) != 1 || !isRand(state) ||
		*at(state - 32)|*at(state - 24)|*at(state - 16)|*at(state - 8) != 0 {
		return false
	}
	content := make([]byte, randSize)
	for range 10 { // a thread that starts can use it meanwhile
		for i := uintptr(0); i < randSize; i += 8 {
			binary.LittleEndian.PutUint64(content[i:], *at(state + i))
		}
		if computesTo(content) {
			return true
		}
		if binary.LittleEndian.Uint32(content[randLimit:]) == 0 {
			return false
		}
	}
	return false
}

// findPoller finds the descriptors of the runtime's poller. This epoll instance
// watches an eventfd, with the address of a variable of the runtime as data.
// The variable holds the eventfd's number.
func findPoller(l *layout, data segment) error {
	// The runtime makes the poller for the first file that can be polled.
	r, w, err := os.Pipe()
	if err != nil {
		return &Refused{Reason: "no pipe", Err: err}
	}
	r.Close()
	w.Close()

	links, err := descriptors()
	if err != nil {
		return err
	}
	found := 0
	for epoll, name := range links {
		if name != "anon_inode:[eventpoll]" {
			continue
		}
		info, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", epoll))
		if err != nil {
			continue // it was closed meanwhile, so it is not the runtime's
		}
		for line := range strings.Lines(string(info)) {
			var fd, events uint32
			var at uint64
			if n, _ := fmt.Sscanf(line, "tfd: %d events: %x data: %x", &fd, &events, &at); n != 3 {
				continue
			}
			if links[int(fd)] != "anon_inode:[eventfd]" || !data.holds(at) ||
				*word(at) != uint64(fd) {
				continue
			}
			l.epoll, l.eventfd, l.eventfdVar = uint32(epoll), fd, uintptr(at)
			found++
		}
	}
	if found != 1 {
		return unknownRuntime(fmt.Sprintf("the poller was found %d times", found))
	}
	return nil
}

func word(addr uint64) *uint64 { return at(uintptr(addr)) }
