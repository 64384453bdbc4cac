//go:build unix

package forkspawn_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// allStopped reports whether all threads of a process have stopped or ended. The
// process is stopped only then. Elsewhere than on Linux it is always true.
func allStopped(pid int) bool {
	stats, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	for _, name := range stats {
		stat, err := os.ReadFile(name)
		if err == nil && !strings.Contains(string(stat), ") T ") &&
			!strings.Contains(string(stat), ") Z ") {
			return false
		}
	}
	return true
}
