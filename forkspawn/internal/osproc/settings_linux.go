package osproc

import (
	"fmt"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/spawnwire/spawnwire/forkspawn/internal/osproc/vfork"
)

// maySignal returns an error if this process may start a child as a user, but not end
// that child (kill(2), capabilities(7)).
func maySignal(uid uint32) error {
	if int(uid) == os.Getuid() || int(uid) == os.Geteuid() {
		return nil
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var has [2]unix.CapUserData
	const change, kill = 1 << unix.CAP_SETUID, 1 << unix.CAP_KILL
	if unix.Capget(&header, &has[0]) != nil || has[0].Effective&(change|kill) != change {
		return nil
	}
	return &vfork.Error{Setting: true, Err: syscall.EPERM,
		Step: fmt.Sprintf("run as user %d without CAP_KILL, which ends the child", uid)}
}

// dumpable counts the starts with other credentials.
var dumpable struct {
	sync.Mutex // guards what follows
	starts     int
	before     int
}

// keepDumpable keeps the dumpable attribute of this process (PR_SET_DUMPABLE in
// prctl(2)). The kernel clears it when a child changes its credentials. So no process of
// the new user can trace the child, whose memory is this process's own until the exec.
// Without the attribute, this process writes no core dump, and its user cannot trace it.
// The caller calls restore after the exec.
func keepDumpable() (restore func()) {
	d := &dumpable
	d.Lock()
	defer d.Unlock()
	if d.starts == 0 {
		d.before, _ = unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	}
	d.starts++
	return func() {
		d.Lock()
		defer d.Unlock()
		if d.starts--; d.starts == 0 && d.before == 1 {
			unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0)
		}
	}
}

// LimitNumber returns the number of a resource limit (getrlimit(2)). Without such a limit,
// ok is false.
func LimitNumber(name string) (n int, ok bool) {
	n, ok = limits[name]
	return n, ok
}

var limits = map[string]int{
	"RLIMIT_AS": unix.RLIMIT_AS, "RLIMIT_CORE": unix.RLIMIT_CORE,
	"RLIMIT_CPU": unix.RLIMIT_CPU, "RLIMIT_DATA": unix.RLIMIT_DATA,
	"RLIMIT_FSIZE": unix.RLIMIT_FSIZE, "RLIMIT_LOCKS": unix.RLIMIT_LOCKS,
	"RLIMIT_MEMLOCK": unix.RLIMIT_MEMLOCK, "RLIMIT_MSGQUEUE": unix.RLIMIT_MSGQUEUE,
	"RLIMIT_NICE": unix.RLIMIT_NICE, "RLIMIT_NOFILE": unix.RLIMIT_NOFILE,
	"RLIMIT_NPROC": unix.RLIMIT_NPROC, "RLIMIT_RSS": unix.RLIMIT_RSS,
	"RLIMIT_RTPRIO": unix.RLIMIT_RTPRIO, "RLIMIT_RTTIME": unix.RLIMIT_RTTIME,
	"RLIMIT_SIGPENDING": unix.RLIMIT_SIGPENDING, "RLIMIT_STACK": unix.RLIMIT_STACK,
}
