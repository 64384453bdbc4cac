package spawntest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// State returns the state of a process as in proc_pid_stat(5), such as "R" for
// running, "S" for sleeping, "T" for stopped and "Z" for a zombie. It returns ""
// if the process does not exist.
//
// On platforms other than Linux it returns "?" if the process exists, and on
// Windows it always returns "".
func State(pid int) string {
	p, _ := readProcess(pid)
	return p.state
}

func gone(pid int) bool {
	p, ok := readProcess(pid)
	return !ok || !p.running() && p.parent != os.Getpid()
}

// process is a process as /proc shows it.
type process struct {
	processID
	parent     int
	state      string
	name       string // of the program, cut to 15 bytes
	descendant bool   // of this process; set by addProcesses
}

// processID identifies a process. It has the start time, in clock ticks since
// boot, because the kernel gives the same pid to another process later.
type processID struct {
	pid   int
	start string
}

// running reports whether the process is neither a zombie nor "X", the state of
// a zombie while its parent waits for it.
func (p process) running() bool { return p.state != "Z" && p.state != "X" }

// ours reports whether the process descends from this one. A zombie must be a
// child of this process, because only its parent can wait for it. A process
// whose ancestors have died is found by the mark in its environment.
func (p process) ours() bool {
	if self := os.Getpid(); p.pid == self || !p.running() && p.parent != self {
		return false
	}
	return p.descendant || p.marked()
}

func (p process) marked() bool {
	env, err := os.ReadFile(procFile(p.pid, "environ"))
	return err == nil && bytes.Contains(env, []byte(mark))
}

func (p process) String() string {
	kind, command := "process", "["+p.name+"]"
	if b, err := os.ReadFile(procFile(p.pid, "cmdline")); err == nil && len(b) > 0 {
		command = strings.ReplaceAll(strings.TrimRight(string(b), "\x00"), "\x00", " ")
	}
	if !p.running() {
		kind = "zombie"
	}
	return fmt.Sprintf("%s %d (%s): %s", kind, p.pid, p.state, command)
}

// kill kills the process, and no other process that has got the same pid since.
func (p process) kill() {
	h, err := os.FindProcess(p.pid)
	if err != nil {
		return
	}
	defer h.Release()
	// From here on h refers to one process, even if the kernel reuses the pid.
	if again, ok := readProcess(p.pid); ok && again.processID == p.processID {
		h.Kill()
	}
}

func procFile(pid int, name string) string { return "/proc/" + strconv.Itoa(pid) + "/" + name }

func readProcess(pid int) (process, bool) {
	b, err := os.ReadFile(procFile(pid, "stat"))
	if err != nil {
		return process{}, false
	}
	// The second field is the name in brackets, which may itself have brackets
	// and spaces. State and parent follow it, and the start time is the 22nd.
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 0 || end < open {
		return process{}, false
	}
	rest := strings.Fields(string(b[end+1:]))
	if len(rest) < 20 {
		return process{}, false
	}
	parent, err := strconv.Atoi(rest[1])
	id, name := processID{pid, rest[19]}, string(b[open+1:end])
	return process{processID: id, parent: parent, state: rest[0], name: name}, err == nil
}

// addProcesses adds all processes of the machine.
func (all things) addProcesses() error {
	pids, err := listNumbers("/proc")
	if err != nil {
		return err
	}
	list, parents := make([]process, 0, len(pids)), make(map[int]int, len(pids))
	for _, pid := range pids {
		if p, ok := readProcess(pid); ok {
			list, parents[pid] = append(list, p), p.parent
		}
	}
	if len(list) == 0 {
		return errors.New("/proc shows no processes")
	}
	for _, p := range list {
		p.descendant = descends(p.pid, os.Getpid(), parents)
		all[p.processID] = p
	}
	return nil
}

// descends reports whether a process is another one or a descendant of it.
func descends(pid, ancestor int, parents map[int]int) bool {
	// The steps are counted, because parents can have a cycle: the kernel may
	// have reused a pid while the processes were read.
	for range parents {
		if pid == ancestor {
			return true
		}
		pid = parents[pid]
	}
	return false
}

const fdDir = "/proc/self/fd"

// descriptor is an open descriptor of this process and its file.
type descriptor struct {
	fd       int
	dev, ino uint64
}

func (descriptor) ours() bool { return true }

func (d descriptor) String() string {
	target, _ := os.Readlink(fdDir + "/" + strconv.Itoa(d.fd))
	return fmt.Sprintf("descriptor %d: %s", d.fd, target)
}

func (all things) addDescriptors() error {
	fds, err := listNumbers(fdDir)
	for _, fd := range fds {
		// Fstat fails if the descriptor has been closed. ReadDir itself had one
		// open.
		var st syscall.Stat_t
		if syscall.Fstat(fd, &st) == nil {
			d := descriptor{fd, uint64(st.Dev), st.Ino}
			all[d] = d
		}
	}
	return err
}

// listNumbers returns the names in a directory that are numbers.
func listNumbers(dir string) (list []int, err error) {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		if n, err := strconv.Atoi(e.Name()); err == nil {
			list = append(list, n)
		}
	}
	return list, err
}
