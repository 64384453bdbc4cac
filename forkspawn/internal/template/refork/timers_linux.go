//go:build amd64 || arm64

package refork

import (
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
)

// deleteOrphanTimers deletes timers of a CPU profile that the runtime has lost,
// because their threads ended during the profile. It reports whether there were
// any. /proc/self/timers (proc_pid_timers(5)) has four lines for each timer:
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
		// Timer numbers are not used twice, so no other timer can be deleted. A
		// new thread with the same number only means another refusal.
		if _, err := os.Stat(fmt.Sprintf("/proc/self/task/%d", tid)); !os.IsNotExist(err) &&
			tid != 0 {
			continue
		}
		if _, _, e := syscall.Syscall(syscall.SYS_TIMER_DELETE, uintptr(id), 0, 0); e == 0 {
			found = true
		}
	}
	return found
}

// wakeSignalThread makes the thread run that the runtime keeps for package
// os/signal. No other goroutine runs on it.
func wakeSignalThread() {
	const unused = syscall.Signal(64)
	c := make(chan os.Signal, 1)
	signal.Notify(c, unused)
	signal.Stop(c)
}
