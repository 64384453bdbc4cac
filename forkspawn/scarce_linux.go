package forkspawn

import (
	"strconv"

	"golang.org/x/sys/unix"
)

const (
	limitDescriptors = unix.RLIMIT_NOFILE
	limitProcesses   = unix.RLIMIT_NPROC
)

// limitNow says how high a limit of this process is: " is 1024".
func limitNow(resource int) string {
	var r unix.Rlimit
	if unix.Getrlimit(resource, &r) != nil {
		return ""
	}
	if r.Cur == unix.RLIM_INFINITY {
		return " is unlimited"
	}
	return " is " + strconv.FormatUint(r.Cur, 10)
}
