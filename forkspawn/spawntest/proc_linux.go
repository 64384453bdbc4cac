package spawntest

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// State returns the state of a process as proc_pid_stat(5) has it: "R" running, "S" sleeping, "D" in an
// uninterruptible sleep, "T" stopped, "t" stopped by a debugger, "Z" a zombie; or "" when there is no such process.
// It is found on Linux only; elsewhere a process that is there has the state "?".
func State(pid int) string {
	p, ok := readProcess(pid)
	if !ok {
		return ""
	}
	return p.state
}

// Running tells whether there is such a process, and it is not a zombie. Where there is no /proc a zombie runs too, and
// on Windows nothing does.
func Running(pid int) bool {
	p, ok := readProcess(pid)
	return ok && p.running()
}

func gone(pid int) bool {
	p, ok := readProcess(pid)
	return !ok || !p.running() && p.parent != os.Getpid()
}

// process is what /proc tells of one.
type process struct {
	processID
	parent int
	state  string
	name   string // of the program, 15 bytes at most
}

// processID is a number and, as numbers come again, when the process was started, in clock ticks since boot.
type processID struct {
	pid   int
	start string
}

// running is false of what waits for its parent only: a zombie, or what is about to be ("X").
func (p process) running() bool { return p.state != "Z" && p.state != "X" }

func (p process) String() string {
	what, command := "process", "["+p.name+"]"
	if b, err := os.ReadFile(procFile(p.pid, "cmdline")); err == nil && len(b) > 0 {
		command = strings.Join(strings.Split(strings.TrimRight(string(b), "\x00"), "\x00"), " ")
	}
	if !p.running() {
		what = "zombie"
	}
	return fmt.Sprintf("%s %d (%s): %s", what, p.pid, p.state, command)
}

func procFile(pid int, name string) string { return "/proc/" + strconv.Itoa(pid) + "/" + name }

func readProcess(pid int) (process, bool) {
	b, err := os.ReadFile(procFile(pid, "stat"))
	if err != nil {
		return process{}, false
	}
	// The name may have anything in it, also brackets. It is followed by state, ppid, and as the 20th the start.
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 0 || end < open {
		return process{}, false
	}
	rest := strings.Fields(string(b[end+1:]))
	if len(rest) < 20 {
		return process{}, false
	}
	parent, err := strconv.Atoi(rest[1])
	return process{processID{pid, rest[19]}, parent, rest[0], string(b[open+1 : end])}, err == nil
}

// processes are all that there are.
type processes map[processID]process

func listProcesses() (processes, error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	all := make(processes)
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			if p, ok := readProcess(pid); ok {
				all[p.processID] = p
			}
		}
	}
	if len(all) == 0 {
		return nil, errors.New("/proc shows no processes")
	}
	return all, nil
}

// since describes the descendants of this process that have come since.
func (before processes) since() (list []string) {
	come, err := before.come()
	if err != nil {
		return []string{err.Error()}
	}
	for _, p := range come {
		list = append(list, p.String())
	}
	return list
}

// come finds the descendants of this process that were not there before.
func (before processes) come() (list []process, err error) {
	now, err := listProcesses()
	if err != nil {
		return nil, err
	}
	self := os.Getpid()
	parents := make(map[int]int, len(now))
	for _, p := range now {
		parents[p.pid] = p.parent
	}
	for id, p := range now {
		if _, ok := before[id]; ok || p.pid == self {
			continue
		}
		switch {
		case !p.running() && p.parent != self: // its parent's matter
		case descends(p.pid, self, parents), home.mark.isOn(p.pid):
			list = append(list, p)
		}
	}
	return list, nil
}

// descends tells whether a process has another among its ancestors.
func descends(pid, from int, parents map[int]int) bool {
	for range parents { // there may be a circle, as the list was not made in one moment
		if pid == from {
			return true
		}
		pid = parents[pid]
	}
	return false
}

// killSince kills the descendants of this process that have come since.
func (before processes) killSince() {
	come, _ := before.come()
	for _, p := range come {
		h, err := os.FindProcess(p.pid)
		if err != nil {
			continue
		}
		// Once there is a hold on it its number cannot come to mean another process.
		if again, ok := readProcess(p.pid); ok && again.processID == p.processID {
			h.Kill()
		}
		h.Release()
	}
}

// isOn tells whether a process has the mark in the environment that it was started with.
func (m Mark) isOn(pid int) bool {
	if m.value == "" {
		return false
	}
	b, err := os.ReadFile(procFile(pid, "environ"))
	return err == nil && bytes.Contains(b, []byte(m.value))
}

func (m Mark) running() (list []string) {
	all, err := listProcesses()
	if err != nil {
		return []string{err.Error()}
	}
	for _, p := range all {
		if p.running() && m.isOn(p.pid) {
			list = append(list, p.String())
		}
	}
	return list
}

// descriptors are those of this process, with what they are open on.
type descriptors map[descriptor]struct{}

type descriptor struct {
	fd       int
	dev, ino uint64
}

const fdDir = "/proc/self/fd"

func listDescriptors() (descriptors, error) {
	dir, err := os.Open(fdDir)
	if err != nil {
		return nil, err
	}
	names, err := dir.Readdirnames(-1)
	own := int(dir.Fd())
	dir.Close()
	if err != nil {
		return nil, err
	}
	all := make(descriptors)
	for _, name := range names {
		fd, err := strconv.Atoi(name)
		if err != nil || fd == own {
			continue
		}
		var st syscall.Stat_t
		if err := syscall.Fstat(fd, &st); err == nil { // and not closed meanwhile
			all[descriptor{fd, uint64(st.Dev), st.Ino}] = struct{}{}
		}
	}
	return all, nil
}

// since describes the descriptors that have come since.
func (before descriptors) since() (list []string) {
	now, err := listDescriptors()
	if err != nil {
		return []string{err.Error()} // such as too many open files
	}
	for d := range now {
		if _, ok := before[d]; ok {
			continue
		}
		target, err := os.Readlink(fdDir + "/" + strconv.Itoa(d.fd))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		list = append(list, fmt.Sprintf("descriptor %d: %s", d.fd, target))
	}
	return list
}
