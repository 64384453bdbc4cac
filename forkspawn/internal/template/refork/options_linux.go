//go:build amd64 || arm64

package refork

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// setOptions puts the options into the arena. Its system calls are raw. Others
// wake the monitor thread of the runtime.
func (f *Forker) setOptions(o *Options) error {
	if err := refuseNow(); err != nil {
		return err
	}
	a := f.a
	a.cloneFlags = uintptr(syscall.SIGCHLD)
	if o.Sibling {
		a.cloneFlags |= unix.CLONE_PARENT
	}
	if o.Pidfd {
		a.cloneFlags |= unix.CLONE_PIDFD
	}
	a.pidfd = -1
	a.alone, a.aloneFor = 0, syscall.NsecToTimespec(max(0, int64(o.Alone)))

	a.nKeep = 0
	for _, c := range f.cgroup {
		var st syscall.Stat_t
		_, _, e := syscall.RawSyscall(syscall.SYS_FSTAT, uintptr(c.fd),
			uintptr(unsafe.Pointer(&st)), 0)
		if e == 0 && st.Dev == c.dev && st.Ino == c.ino && a.nKeep < maxMoves {
			a.keep[a.nKeep] = uint32(c.fd)
			a.nKeep++
		}
	}
	if err := setFiles(a, o); err != nil {
		return err
	}
	if err := setReport(a, o.Report); err != nil {
		return err
	}
	return setRequest(a, o)
}

// setFiles checks the child's descriptors and makes moves of them.
func setFiles(a *arena, o *Options) error {
	if len(o.Stdio)+len(o.Keep) > maxMoves {
		return &Refused{Reason: fmt.Sprintf("%d descriptors for the child, of at most %d",
			len(o.Stdio)+len(o.Keep), maxMoves)}
	}
	var limit syscall.Rlimit
	_, _, e := syscall.RawSyscall6(syscall.SYS_PRLIMIT64, 0, syscall.RLIMIT_NOFILE, 0,
		uintptr(unsafe.Pointer(&limit)), 0, 0)
	if e != 0 {
		return &Refused{Reason: "getrlimit(RLIMIT_NOFILE)", Err: e}
	}
	a.nMoves = 0
	add := func(from, to int) error {
		if _, _, e := syscall.RawSyscall(syscall.SYS_FCNTL, uintptr(from), unix.F_GETFD,
			0); e != 0 || from < 3 {
			return &Refused{
				Reason: fmt.Sprintf("descriptor %d, which the child shall get, is not open", from),
				Err:    syscall.EBADF}
		}
		if uint64(from)+1 >= limit.Cur {
			return &Refused{Reason: fmt.Sprintf("no descriptor %d for the child", from),
				Err: syscall.EMFILE, Remedy: "raise the limit with ulimit -n"}
		}
		a.moves[a.nMoves] = move{uint32(from), uint32(to)}
		a.nMoves++
		return nil
	}
	for to, from := range o.Stdio {
		if from == 0 {
			continue
		}
		if err := add(from, to); err != nil {
			return err
		}
	}
	for _, fd := range o.Keep {
		if err := add(fd, fd); err != nil {
			return err
		}
	}
	return nil
}

// open opens the descriptors of Fork itself, unless they are open.
func (f *Forker) open() error {
	if f.opened {
		return nil
	}
	a := f.a
	pair, err := syscall.Socketpair(syscall.AF_UNIX,
		syscall.SOCK_STREAM|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return &Refused{Reason: "socketpair", Err: err}
	}
	syscall.Close(pair[1])
	a.poison = uintptr(pair[0])
	own := []*uintptr{&a.poison}
	for _, d := range []struct {
		name string
		fd   *uintptr
		open func(name string) (int, error)
	}{
		{"/proc/self/task", &a.taskDir, openRead},
		{"/proc/self/fd", &a.fdDir, openRead},
		{"/proc/self/fdinfo/" + strconv.Itoa(int(a.layout.epoll)), &a.fdInfo, openRead},
		{"signalfd", &a.signals, openSignals},
	} {
		fd, err := d.open(d.name)
		if err != nil {
			f.close(own)
			// /proc/self belongs to the first thread, and is empty when that
			// has ended.
			if state, _ := threadState(uint32(os.Getpid())); strings.HasPrefix(state, "Z") {
				return leaderEnded()
			}
			return &Refused{Reason: d.name, Err: err}
		}
		*d.fd = uintptr(fd)
		own = append(own, d.fd)
	}
	f.opened = true
	return nil
}

func openRead(name string) (int, error) {
	return syscall.Open(name, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
}

// openSignals opens the descriptor that shows pending signals (signalfd(2)).
func openSignals(string) (int, error) {
	const flags = unix.SFD_CLOEXEC | unix.SFD_NONBLOCK
	fd, _, e := syscall.RawSyscall6(syscall.SYS_SIGNALFD4, ^uintptr(0),
		uintptr(unsafe.Pointer(&waitingSignals)), 8, flags, 0, 0)
	if e != 0 {
		return -1, e
	}
	return int(fd), nil
}

func (f *Forker) close(own []*uintptr) {
	for _, fd := range own {
		syscall.Close(int(*fd))
	}
	f.opened = false
}
