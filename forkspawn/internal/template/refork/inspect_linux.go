//go:build amd64 || arm64

package refork

import (
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// inspect proves, with all threads frozen, that the child can be rebuilt. It
// notes the data for it. If it refuses, the process only loses a moment.
func inspect(a *arena) result {
	if r := inspectThreads(a); r.code != ok {
		return r
	}
	if !isRand(a.layout.globalRand) || *at(a.layout.globalRand + randSize) != 1 {
		return result{code: wrongGlobalRand}
	}
	if r := inspectTimers(a); r.code != ok {
		return r
	}
	n, e := list(a, a.fdDir, &a.fds[0], maxFiles)
	if e != 0 {
		return result{code: failedList, errno: e, a: uint64(a.fdDir)}
	}
	if n < 0 {
		return result{code: tooManyFiles, a: maxFiles}
	}
	a.nFDs = n
	for i := range n {
		if fd := a.fds[i]; !isKept(a, fd) {
			a.kinds[i] = kindOf(a, uintptr(fd))
		}
	}
	return inspectPoller(a)
}

// inspectThreads checks the record of each thread.
func inspectThreads(a *arena) result {
	n := 0
	for i := range slots(a) {
		s := &a.slots[i]
		if s.gen != a.gen {
			continue
		}
		n++
		if r := inspectThread(a, s); r.code != ok {
			return r
		}
	}
	if n != a.nTids-1 || int(load(&a.inside)) != n {
		return result{code: wrongCount, a: uint64(n), b: uint64(a.nTids)}
	}
	if ms := runtimeThreads(); ms != a.nTids {
		return result{code: wrongMs, a: uint64(ms), b: uint64(a.nTids)}
	}
	a.self.g = a.g
	a.self.m = uintptr(*at(a.self.g + offsetM))
	a.self.tls = threadPointer()
	return inspectThread(a, &a.self)
}

// runtimeThreads returns the runtime's number of threads. A record without a
// thread belongs to one that is about to start. It would start in the child
// too, but with the parent's random state.
func runtimeThreads() int {
	n, _ := runtime.ThreadCreateProfile(nil)
	return n
}

func inspectThread(a *arena, s *slot) result {
	if s.frame != 0 && !findM(a, s) {
		return result{code: wrongTLS, a: uint64(s.tid), b: uint64(s.tls)}
	}
	if s.m == 0 {
		return result{code: wrongM, a: uint64(s.tid)}
	}
	if procid := *at(s.m + a.layout.procid); procid != uint64(s.tid) {
		return result{code: wrongM, a: uint64(s.tid), b: procid}
	}
	if s.frame != 0 && notesID(s) {
		return result{code: starting, a: uint64(s.tid)}
	}
	if mark := tlsMark(s.tls, s.m); mark != a.layout.tls {
		return result{code: wrongTLS, a: uint64(s.tid), b: uint64(mark)}
	}
	if !isRand(s.m + a.layout.chacha) {
		return result{code: wrongRand, a: uint64(s.tid)}
	}
	return result{}
}

// inspectTimers looks for the timers of a CPU profile. The child would not have
// them, and the runtime ends a program when it fails to delete one. The process
// has an interval timer for the profile. Each thread has a POSIX timer, which
// the runtime deletes when the thread runs Go code after the end of the
// profile.
//
// The kernel numbers the POSIX timers of a process from 0 up, and uses no
// number twice. So the number of a new timer shows which numbers to look at
// since the last inspection.
func inspectTimers(a *arena) result {
	interval := (*[4]int64)(unsafe.Pointer(&a.scratch))
	if _, _, e := syscall.RawSyscall(syscall.SYS_GETITIMER, unix.ITIMER_PROF,
		uintptr(unsafe.Pointer(interval)), 0); e != 0 {
		return result{code: failedTimer, errno: e}
	}
	if interval[0]|interval[1]|interval[2]|interval[3] != 0 {
		return result{code: profiling}
	}

	// struct sigevent: its value, the signal, and how to notify: SIGEV_NONE is
	// 1.
	*(*[16]uint32)(unsafe.Pointer(&a.scratch)) = [16]uint32{3: 1}
	event, id := uintptr(unsafe.Pointer(&a.scratch)), (*uint32)(unsafe.Pointer(&a.scratch[64]))
	_, _, e := syscall.RawSyscall(syscall.SYS_TIMER_CREATE, unix.CLOCK_MONOTONIC, event,
		uintptr(unsafe.Pointer(id)))
	if e != 0 {
		return result{code: failedTimer, errno: e}
	}
	made := *id
	syscall.RawSyscall(syscall.SYS_TIMER_DELETE, uintptr(made), 0, 0)
	for ; a.timer < made; a.timer++ {
		if _, _, e := syscall.RawSyscall(syscall.SYS_TIMER_GETTIME, uintptr(a.timer),
			uintptr(unsafe.Pointer(&a.scratch)), 0); e == 0 {
			return result{code: posixTimer, a: uint64(a.timer)}
		}
	}
	a.timer = made + 1
	return result{}
}

// inspectPoller reads the list of the runtime's epoll instance
// (proc_pid_fdinfo(5)). Its lines begin "tfd: 5 events: 80002019 data:
// 7f6a3c0ffff".
func inspectPoller(a *arena) result {
	if _, _, e := syscall.RawSyscall(syscall.SYS_LSEEK, a.fdInfo, 0, 0); e != 0 {
		return result{code: failedPoller, errno: e, a: uint64(a.layout.epoll)}
	}
	size := uintptr(0)
	for {
		if size == textSize {
			return result{code: pollerTooLong, a: textSize}
		}
		n, _, e := syscall.RawSyscall(syscall.SYS_READ, a.fdInfo,
			uintptr(unsafe.Pointer(&a.text[size])), textSize-size)
		if e != 0 {
			return result{code: failedPoller, errno: e, a: uint64(a.layout.epoll)}
		}
		if n == 0 {
			break
		}
		size += n
	}
	a.nPolled = 0
	own := 0
	for pos := uintptr(0); pos < size; {
		if size-pos > 4 && a.text[pos] == 't' && a.text[pos+1] == 'f' &&
			a.text[pos+2] == 'd' && a.text[pos+3] == ':' {
			var fd, events, data uint64
			pos, fd = field(a, pos, size, 10)
			pos, events = field(a, pos, size, 16)
			pos, data = field(a, pos, size, 16)
			switch {
			case uint32(fd) == a.layout.eventfd && data == uint64(a.layout.eventfdVar):
				own++
			case a.nPolled == maxFiles:
				return result{code: pollerTooLong, a: textSize}
			default:
				a.polled[a.nPolled] = polled{data: data, fd: uint32(fd), events: uint32(events)}
				a.nPolled++
			}
		}
		for pos < size && a.text[pos] != '\n' {
			pos++
		}
		pos++
	}
	if own != 1 || *at(a.layout.eventfdVar) != uint64(a.layout.eventfd) {
		return result{code: pollerChanged, a: uint64(own)}
	}
	return result{}
}

// field reads the number after the next colon.
func field(a *arena, pos, size uintptr, base uint64) (uintptr, uint64) {
	for pos < size && a.text[pos] != ':' {
		pos++
	}
	pos++
	for pos < size && a.text[pos] == ' ' {
		pos++
	}
	number := uint64(0)
	for ; pos < size; pos++ {
		digit := uint64(a.text[pos])
		switch {
		case digit >= '0' && digit <= '9':
			digit -= '0'
		case digit >= 'a' && digit <= 'f':
			digit -= 'a' - 10
		default:
			return pos, number
		}
		number = number*base + digit
	}
	return pos, number
}
