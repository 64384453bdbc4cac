package forkspawn

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
)

// treeEnv is the environment variable by which a subreaper knows whose descendant a process is: one
// "spawner/child" for each level that has a subreaper, with spaces between.
const treeEnv = "SPAWNWIRE_TREE"

// subreaper ends and reaps what the children of a Spawner leave behind in sessions and groups of their own. The
// kernel gives such processes to this one (PR_SET_CHILD_SUBREAPER in prctl(2)), where they are among its
// children, and their environment tells whose they were. A nil subreaper does nothing.
type subreaper struct {
	spawner string // its id
	stop    chan struct{}
	done    chan struct{}

	mu      sync.Mutex // guards what follows; held over the start of a child, so that no look comes between its start and the note of it
	own     map[int]struct{}
	adopted map[int]bool      // processes that were seen with the mark, and are not own; whether they were killed
	kin     map[int]time.Time // process groups and sessions of adopted processes and of children that have ended, and when they were seen last
	strange map[int]time.Time // zombies of which nothing is known, since when
}

// The bounds of a subreaper.
const (
	sweepBound    = time.Second      // for ending what one child left
	adoptInterval = time.Second      // between looks for what came meanwhile
	strangeAge    = 10 * time.Second // of a zombie that nobody waited for, before it is taken for an adopted one
)

var subreapers struct {
	sync.Mutex       // guards what follows
	count      int   // of Spawners that need it
	before     int32 // what the process was before the first
}

func newSubreaper(spawner string) (*subreaper, error) {
	if _, err := ownChildren(); err != nil {
		return nil, fmt.Errorf("subreaper: cannot list this process's children: %w", err)
	}
	subreapers.Lock()
	defer subreapers.Unlock()
	if subreapers.count == 0 {
		if err := unix.Prctl(unix.PR_GET_CHILD_SUBREAPER, uintptr(unsafe.Pointer(&subreapers.before)), 0, 0, 0); err != nil {
			return nil, os.NewSyscallError("prctl(PR_GET_CHILD_SUBREAPER)", err)
		}
		if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
			return nil, os.NewSyscallError("prctl(PR_SET_CHILD_SUBREAPER)", err)
		}
	}
	subreapers.count++
	r := &subreaper{
		spawner: spawner, stop: make(chan struct{}), done: make(chan struct{}),
		own: make(map[int]struct{}), adopted: make(map[int]bool),
		kin: make(map[int]time.Time), strange: make(map[int]time.Time),
	}
	go r.run()
	return r, nil
}

// run looks, until close, for processes that came to this one while the child that started them lives: they
// may live as long as it does, but must be known when they are zombies, which show no environment.
func (r *subreaper) run() {
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

// mark returns what a child's environment gets.
func (r *subreaper) mark(child string, cmd Command) []string {
	env := cmd.Env
	if env == nil {
		env = os.Environ()
	}
	value := r.spawner + "/" + child
	for _, kv := range env {
		if old, ok := strings.CutPrefix(kv, treeEnv+"="); ok {
			value = old + " " + value
		}
	}
	return cmd.environ(treeEnv, value)
}

// started starts a child with start and notes that it is this Spawner's own.
func (r *subreaper) started(start func() (Process, error)) (Process, error) {
	if r == nil {
		return start()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	p, err := start()
	if err == nil {
		r.own[p.PID()] = struct{}{}
	}
	return p, err
}

// ended ends what a child that has been reaped has left.
func (r *subreaper) ended(pid int, child string) {
	if r == nil {
		return
	}
	r.mu.Lock()
	delete(r.own, pid)
	r.kin[pid] = time.Now() // its group
	r.mu.Unlock()
	r.sweep([]byte(r.spawner + "/" + child))
}

// close ends what all children have left.
func (r *subreaper) close() {
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

// sweep kills and reaps the adopted processes with the mark, and what comes to this process as they die,
// until there is none.
func (r *subreaper) sweep(mark []byte) {
	for began := time.Now(); ; {
		if !r.look(mark) || time.Since(began) > sweepBound {
			return
		}
		time.Sleep(time.Millisecond) // their deaths, of which nothing tells
	}
}

// look goes through this process's children that are not the Spawner's own. It notes those with the Spawner's
// mark, kills those with the mark kill, unless that is nil, and reaps zombies. It reports whether there is more to
// do in a moment, or may be.
func (r *subreaper) look(kill []byte) (more bool) {
	pids, err := ownChildren()
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
			unix.Kill(pid, unix.SIGKILL) // a child of this process: nobody else can have the number
			more = true
		case bytes.Contains(environ, []byte(r.spawner+"/")):
			r.adopt(pid, r.adopted[pid])
		}
	}
	for pid := range r.adopted {
		if !there[pid] {
			delete(r.adopted, pid)
		}
	}
	for pid := range r.strange {
		if !there[pid] {
			delete(r.strange, pid)
		}
	}
	for id, seen := range r.kin {
		if time.Since(seen) > strangeAge {
			delete(r.kin, id)
		}
	}
	return more
}

// adopt notes a process, and its group and session, by which its kin is known that shows no environment any
// more. The caller holds r.mu.
func (r *subreaper) adopt(pid int, killed bool) {
	r.adopted[pid] = killed
	group, session, ok := kinship(pid)
	ownGroup, ownSession, _ := kinship(0)
	if ok && group != ownGroup {
		r.kin[group] = time.Now()
	}
	if ok && session != ownSession {
		r.kin[session] = time.Now()
	}
}

// isAdopted tells whether a zombie is one of the adopted, or their kin. The caller holds r.mu.
func (r *subreaper) isAdopted(pid int) bool {
	if _, ok := r.adopted[pid]; ok {
		return true
	}
	group, session, ok := kinship(pid)
	return ok && (!r.kin[group].IsZero() || !r.kin[session].IsZero())
}

// kinship returns a process's group and session, which a zombie has still; 0 is this process.
func kinship(pid int) (group, session int, ok bool) {
	group, err := unix.Getpgid(pid)
	if err != nil {
		return 0, 0, false
	}
	session, err = unix.Getsid(pid)
	return group, session, err == nil
}

// reap reaps a zombie that was adopted, or for which nobody has waited for long. The caller holds r.mu.
func (r *subreaper) reap(pid int) bool {
	if !r.isAdopted(pid) {
		since, ok := r.strange[pid]
		if !ok {
			r.strange[pid] = time.Now()
		}
		if !ok || time.Since(since) < strangeAge {
			return false
		}
	}
	return waitid(unix.P_PID, pid, new(unix.Siginfo), unix.WEXITED|unix.WNOHANG) == nil
}

// changes tells whether a process that has just shown no environment has one in a moment, or ends, as it is in the middle of an
// exec or dies. One whose environment is empty begins and ends at the same place.
func changes(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false // it is gone
	}
	const envStart, envEnd = 50 - 3, 51 - 3 // in proc_pid_stat(5), whose third field is the first behind the name
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) <= envEnd {
		return false
	}
	start, end := string(fields[envStart]), string(fields[envEnd])
	return end == "0" || start != end
}

// isZombie tells whether a child of this process can be waited for.
func isZombie(pid int) bool {
	var info unix.Siginfo
	err := waitid(unix.P_PID, pid, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT)
	return err == nil && tellsEnd(&info)
}

// ownChildren lists this process's children by pid (proc_tid_children(5)).
func ownChildren() ([]int, error) {
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
