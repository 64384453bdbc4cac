package main

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

// proportional returns the proportional set size of a process in bytes, or 0 on
// systems without /proc/PID/smaps_rollup. A page shared by k processes counts as
// 1/k page; see Pss in proc(5).
func proportional(pid int) (int, error) {
	n, err := kilobytes(fmt.Sprintf("/proc/%d/smaps_rollup", pid), "Pss:")
	if errors.Is(err, fs.ErrNotExist) && !haveSmaps() {
		return 0, nil
	}
	return n, err
}

// available returns how many bytes programs can allocate before the system
// swaps, or 0 if that is unknown.
func available() (int, error) {
	n, err := kilobytes("/proc/meminfo", "MemAvailable:")
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	return n, err
}

func haveSmaps() bool {
	_, err := os.Stat("/proc/self/smaps_rollup")
	return err == nil
}

// kilobytes reads a line such as "key 12 kB" and returns the number of bytes.
func kilobytes(path, key string) (int, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), key); ok {
			n := 0
			if _, err := fmt.Sscan(value, &n); err != nil {
				return 0, fmt.Errorf("%s: %s %w", path, key, err)
			}
			return n << 10, nil
		}
	}
	return 0, fmt.Errorf("%s has no line %q", path, key)
}
