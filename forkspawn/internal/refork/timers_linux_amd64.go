package refork

import (
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
)

// deleteOrphanTimers deletes the timers that the runtime made for a CPU profile and has lost, as their threads ended
// while it ran, and tells whether there were any. /proc/self/timers (proc_pid_timers(5)) has four lines for each:
//
//	ID: 3
//	signal: 27/0000000000000000
//	notify: signal/tid.1234
//	ClockID: -9862
func deleteOrphanTimers() bool {
	text, err := os.ReadFile("/proc/self/timers")
	if err != nil {
		return false
	}
	found := false
	id := -1
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if number, ok := strings.CutPrefix(line, "ID: "); ok {
			if id, err = strconv.Atoi(number); err != nil {
				return found
			}
			continue
		}
		thread, ok := strings.CutPrefix(line, "notify: signal/tid.")
		if !ok {
			continue
		}
		tid, err := strconv.Atoi(thread)
		if err != nil {
			continue
		}
		// No number is used twice, so this cannot hit another timer; a new thread with the ended one's number is one more refusal.
		if _, err := os.Stat(fmt.Sprintf("/proc/self/task/%d", tid)); !os.IsNotExist(err) && tid != 0 {
			continue
		}
		if _, _, e := syscall.Syscall(syscall.SYS_TIMER_DELETE, uintptr(id), 0, 0); e == 0 {
			found = true
		}
	}
	return found
}

// wakeSignalThread has the thread run that the runtime keeps for package os/signal, and which no other goroutine gets.
func wakeSignalThread() {
	const unused = syscall.Signal(64)
	c := make(chan os.Signal, 1)
	signal.Notify(c, unused)
	signal.Stop(c)
}
