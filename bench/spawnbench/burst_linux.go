package main

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// familyCPU returns the processor time of this process and of its children, with the ended
// ones.
func familyCPU() (time.Duration, error) {
	total, err := ownCPU(unix.RUSAGE_SELF)
	if err != nil {
		return 0, err
	}
	ended, err := ownCPU(unix.RUSAGE_CHILDREN)
	if err != nil {
		return 0, err
	}
	total += ended
	lists, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		return 0, err
	}
	for _, list := range lists {
		pids, err := os.ReadFile(list)
		if errors.Is(err, os.ErrNotExist) { // the thread has ended
			continue
		}
		if err != nil {
			return 0, err
		}
		for _, pid := range bytes.Fields(pids) {
			total += childCPU(string(pid))
		}
	}
	return total, nil
}

func ownCPU(who int) (time.Duration, error) {
	var u unix.Rusage
	err := unix.Getrusage(who, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), err
}

// childCPU returns the processor time of a child, or 0 after its end. See
// proc_pid_stat(5).
func childCPU(pid string) time.Duration {
	stat, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return 0
	}
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	ticks := 0
	for _, field := range fields[11:13] { // utime and stime
		n, _ := strconv.Atoi(string(field))
		ticks += n
	}
	return time.Duration(ticks) * time.Second / 100
}

//go:embed testdata/fork.c
var forkC []byte

// cFork is a program in C. Its children write one byte and wait.
type cFork struct{ dir, program string }

func newCFork() (*cFork, error) {
	dir, err := os.MkdirTemp("", "spawnbench-")
	if err != nil {
		return nil, err
	}
	c := &cFork{dir, filepath.Join(dir, "fork")}
	source := filepath.Join(dir, "fork.c")
	err = os.WriteFile(source, forkC, 0o600)
	if err == nil {
		var out []byte
		out, err = exec.Command("cc", "-O2", "-o", c.program, source).CombinedOutput()
		if len(out) > 0 {
			err = fmt.Errorf("%w: %s", err, out)
		}
	}
	if err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

func (c *cFork) close() { os.RemoveAll(c.dir) }

// burst runs the program, which prints both times in nanoseconds.
func (c *cFork) burst(n int) (up, cpu time.Duration, err error) {
	out, err := exec.Command(c.program, strconv.Itoa(n)).Output()
	if err == nil {
		_, err = fmt.Sscan(string(out), &up, &cpu)
	}
	return up, cpu, err
}
