package forkspawn

import (
	"bytes"
	"fmt"
	"os"
)

// traced tells whether a debugger holds the process (TracerPid in proc_pid_status(5)).
func traced(pid int) bool {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return false
	}
	_, rest, found := bytes.Cut(status, []byte("\nTracerPid:\t"))
	return found && !bytes.HasPrefix(rest, []byte("0\n"))
}
