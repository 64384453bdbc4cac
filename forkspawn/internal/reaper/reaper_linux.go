// Package reaper ends orphans of the children in other sessions and process groups.
package reaper

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/spawnwire/spawnwire/forkspawn/internal/osproc"
)

// treeEnv is the environment variable with the ancestors of a process: one mark
// "spawner/child" for each level with a subreaper, separated by spaces.
const treeEnv = "SPAWNWIRE_TREE"

// Reaper kills and reaps the processes that the children of a Spawner leave behind
// in other sessions and process groups. This process becomes their parent
// (PR_SET_CHILD_SUBREAPER in prctl(2)), and recognizes them by the mark in their
// environment. A nil Reaper does nothing.
type Reaper struct {
	spawner string // its id
	stop    chan struct{}
	done    chan struct{}

	mu       sync.Mutex       // guards what follows; not held during a start
	starting int              // starts in progress: their processes are not in own yet
	own      map[int]struct{} // the Spawner's children
	adopted  map[int]bool     // other processes with the mark; true after the kill
	// groups and sessions of adopted processes and ended children; last seen
	kin map[int]time.Time
}

const (
	sweepBound    = time.Second      // bounds a sweep
	adoptInterval = time.Second      // the time between two looks of run
	kinAge        = 10 * time.Second // how long kin keeps a group or session
)

var subreapers struct {
	sync.Mutex       // guards what follows
	count      int   // Spawners with a Reaper
	before     int32 // the value of PR_GET_CHILD_SUBREAPER before the first
}

// New makes this process a subreaper for the Spawner with this id. The caller calls
// Close in the end.
func New(spawner string) (*Reaper, error) {
	if _, err := Children(); err != nil {
		return nil, fmt.Errorf("subreaper: cannot list this process's children: %w", err)
	}
	if err := checkProc(); err != nil {
		return nil, fmt.Errorf("subreaper: %w", err)
	}
	subreapers.Lock()
	defer subreapers.Unlock()
	if subreapers.count == 0 {
		if err := unix.Prctl(unix.PR_GET_CHILD_SUBREAPER,
			uintptr(unsafe.Pointer(&subreapers.before)), 0, 0, 0); err != nil {
			return nil, os.NewSyscallError("prctl(PR_GET_CHILD_SUBREAPER)", err)
		}
		if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
			return nil, os.NewSyscallError("prctl(PR_SET_CHILD_SUBREAPER)", err)
		}
	}
	subreapers.count++
	r := &Reaper{
		spawner: spawner, stop: make(chan struct{}), done: make(chan struct{}),
		own: make(map[int]struct{}), adopted: make(map[int]bool),
		kin: make(map[int]time.Time),
	}
	go r.run()
	return r, nil
}

// checkProc returns an error if /proc was mounted for another PID namespace,
// as happens in unshare(1) without --mount-proc. Its numbers mean nothing here.
func checkProc() error {
	self, err := os.Readlink("/proc/self")
	if err != nil {
		return err
	}
	if self != strconv.Itoa(os.Getpid()) {
		return fmt.Errorf(
			"/proc shows another PID namespace: this process is %d, and %s there; mount its own /proc", os.Getpid(), self)
	}
	return nil
}

// run calls look once a second until Close. A process can come to this process while
// the child that has left it is still alive. It is not killed then, but recorded,
// because as a zombie it would have no environment and could not be recognized.
func (r *Reaper) run() {
	defer close(r.done)
	ticker := time.NewTicker(adoptInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			r.look(nil)
		case <-r.stop:
			return
		}
	}
}

// Mark returns a copy of env with the mark of a child. A nil env is this process's
// own.
func (r *Reaper) Mark(child string, env []string) []string {
	if env == nil {
		env = os.Environ()
	}
	value := r.spawner + "/" + child
	for _, kv := range env {
		if old, ok := strings.CutPrefix(kv, treeEnv+"="); ok {
			value = old + " " + value
		}
	}
	return append(osproc.Without(env, treeEnv), treeEnv+"="+value)
}

// Start calls start and records the process as a child of the Spawner.
func (r *Reaper) Start(start func() (pid int, err error)) error {
	if r == nil {
		_, err := start()
		return err
	}
	r.mu.Lock()
	r.starting++
	r.mu.Unlock()
	pid, err := start()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.starting--
	if err == nil {
		r.own[pid] = struct{}{}
	}
	return err
}

// Ended kills the processes left by a child. The caller has reaped the child.
func (r *Reaper) Ended(pid int, child string) {
	if r == nil {
		return
	}
	r.mu.Lock()
	delete(r.own, pid)
	r.kin[pid] = time.Now() // its group
	r.mu.Unlock()
	r.sweep([]byte(r.spawner + "/" + child))
}

// Close kills the processes left by all children.
func (r *Reaper) Close() {
	if r == nil {
		return
	}
	close(r.stop)
	<-r.done
	r.sweep([]byte(r.spawner + "/"))
	subreapers.Lock()
	defer subreapers.Unlock()
	if subreapers.count--; subreapers.count == 0 {
		unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, uintptr(subreapers.before), 0, 0, 0)
	}
}

// sweep kills and reaps the adopted processes with the mark until there are none.
// Their deaths can bring more of them to this process.
func (r *Reaper) sweep(mark []byte) {
	for began := time.Now(); ; {
		if !r.look(mark) || time.Since(began) > sweepBound {
			return
		}
		time.Sleep(time.Millisecond) // polls, because nothing reports their deaths
	}
}

// look adopts the other children of this process with the Spawner's mark, and reaps
// adopted zombies. During a start it does so only with processes adopted before,
// because any other could be the one that is starting. If kill is not nil, look also
// kills the children with that mark. It reports whether it must soon be called
// again.
func (r *Reaper) look(kill []byte) (more bool) {
	pids, err := Children()
	if err != nil {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	there := make(map[int]bool, len(pids))
	for _, pid := range pids {
		if _, ok := r.own[pid]; ok {
			continue
		}
		there[pid] = true
		environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		switch {
		case len(environ) == 0 && isZombie(pid):
			more = r.reap(pid) || more
		case len(environ) == 0:
			more = r.adopted[pid] || (!errors.Is(err, fs.ErrPermission) && changes(pid)) || more
		case kill != nil && bytes.Contains(environ, kill):
			r.adopt(pid, true)
			unix.Kill(pid, unix.SIGKILL) // the pid of a child cannot be reused before it is reaped
			more = true
		case r.starting == 0 && bytes.Contains(environ, []byte(r.spawner+"/")):
			r.adopt(pid, r.adopted[pid])
		}
	}
	for pid := range r.adopted {
		if !there[pid] {
			delete(r.adopted, pid)
		}
	}
	for id, seen := range r.kin {
		if time.Since(seen) > kinAge {
			delete(r.kin, id)
		}
	}
	return more
}

// adopt records a process. It also records its group and session, because these
// identify zombies of its kin. The caller holds r.mu.
func (r *Reaper) adopt(pid int, killed bool) {
	r.adopted[pid] = killed
	group, session, ok := Kinship(pid)
	ownGroup, ownSession, _ := Kinship(0)
	if ok && group != ownGroup {
		r.kin[group] = time.Now()
	}
	if ok && session != ownSession {
		r.kin[session] = time.Now()
	}
}

// isAdopted reports whether a zombie was adopted, or is of the kin of an adopted
// process. The caller holds r.mu.
func (r *Reaper) isAdopted(pid int) bool {
	if _, ok := r.adopted[pid]; ok {
		return true
	}
	if r.starting > 0 {
		return false
	}
	group, session, ok := Kinship(pid)
	if !ok {
		return false
	}
	_, ofChild := r.own[group] // each child leads a group
	return ofChild || !r.kin[group].IsZero() || !r.kin[session].IsZero()
}

// Kinship returns the process group and session of a process, also of a zombie. The
// pid 0 is this process.
func Kinship(pid int) (group, session int, ok bool) {
	group, err := unix.Getpgid(pid)
	if err != nil {
		return 0, 0, false
	}
	session, err = unix.Getsid(pid)
	return group, session, err == nil
}

// reap reaps a zombie that was adopted. It leaves every other zombie alone,
// because another part of the program may have started the process and wait for
// it later. The caller holds r.mu.
func (r *Reaper) reap(pid int) bool {
	if !r.isAdopted(pid) {
		return false
	}
	return osproc.Waitid(unix.P_PID, pid, new(unix.Siginfo), unix.WEXITED|unix.WNOHANG) == nil
}

// changes reports whether a process without an environment is in the middle of an
// exec or of its end. An environment that is really empty has the same start and
// end address.
func changes(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false // it has ended
	}
	const envStart, envEnd = 50 - 3, 51 - 3 // numbers in proc_pid_stat(5); fields[0] is number 3
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) <= envEnd {
		return false
	}
	start, end := string(fields[envStart]), string(fields[envEnd])
	return end == "0" || start != end
}

// isZombie reports whether a child of this process is a zombie.
func isZombie(pid int) bool {
	var info unix.Siginfo
	err := osproc.Waitid(unix.P_PID, pid, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT)
	return err == nil && osproc.TellsEnd(&info)
}

// Children returns the pids of this process's children (proc_tid_children(5)).
func Children() ([]int, error) {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, task := range tasks {
		list, err := os.ReadFile("/proc/self/task/" + task.Name() + "/children")
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			if _, gone := os.Stat("/proc/self/task/" + task.Name()); gone != nil {
				continue // the thread has ended
			}
		}
		if err != nil {
			return nil, err
		}
		for _, field := range bytes.Fields(list) {
			if pid, err := strconv.Atoi(string(field)); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids, nil
}
