package main

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

// proportional returns the memory of a process in bytes, of which what it shares with others counts by its share: Pss of
// /proc/PID/smaps_rollup, see proc(5). It is 0 where there is no such file.
func proportional(pid int) (int, error) {
	n, err := kilobytes(fmt.Sprintf("/proc/%d/smaps_rollup", pid), "Pss:")
	if errors.Is(err, fs.ErrNotExist) && !procThere() {
		return 0, nil
	}
	return n, err
}

// available returns how many bytes programs can have before the system has to swap, or 0 where it does not say.
func available() (int, error) {
	n, err := kilobytes("/proc/meminfo", "MemAvailable:")
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	return n, err
}

func procThere() bool {
	_, err := os.Stat("/proc/self/smaps_rollup")
	return err == nil
}

// kilobytes returns the bytes that a line of the form "key 12 kB" says.
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
