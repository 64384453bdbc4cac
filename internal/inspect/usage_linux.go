package inspect

import (
	"bytes"
	"os"
	"strconv"
	"time"
)

const (
	clockTick = time.Second / 100 // USER_HZ; see time(7)
	// Fields of /proc/PID/stat after the name of the program; see proc_pid_stat(5).
	fieldState, fieldUser, fieldSystem, fieldThreads, fieldPages = 0, 11, 12, 17, 21
)

// Usage sets the CPU time, the memory and the threads of a process on this machine. It
// reports whether a signal or a debugger has stopped it.
func (p *Process) Usage() (stopped bool) {
	if p.PID <= 0 {
		return false
	}
	data, err := os.ReadFile("/proc/" + strconv.Itoa(p.PID) + "/stat")
	if err != nil {
		return false
	}
	fields := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
	if len(fields) <= fieldPages {
		return false
	}
	number := func(field int) int64 {
		n, _ := strconv.ParseInt(string(fields[field]), 10, 64)
		return n
	}
	p.CPU = time.Duration(number(fieldUser)+number(fieldSystem)) * clockTick
	p.Threads = int(number(fieldThreads))
	p.Memory = number(fieldPages) * int64(os.Getpagesize())
	return fields[fieldState][0] == 'T' || fields[fieldState][0] == 't'
}
