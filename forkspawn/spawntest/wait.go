package spawntest

import (
	"strconv"
	"testing"
	"time"
)

// bound is how long Eventually waits. It only has to find hangs, so it is
// generous. Tests of this package change it.
var bound = time.Minute

// Eventually calls cond, at once and then every few milliseconds, until it
// returns true. If that takes more than a minute, the test fails at once with
// the text in state, such as "the child is ready". Eventually calls cond in the
// goroutine of its caller, so cond may use t.
func Eventually(t testing.TB, state string, cond func() bool) {
	t.Helper()
	if !poll(time.Now().Add(bound), cond) {
		t.Fatalf("spawntest: waited %v for this: %s", bound, state)
	}
}

// AwaitGone waits, as [Eventually] does, until none of the processes exists. A
// zombie counts as gone unless this process is its parent, because then the
// test has not yet waited for it.
func AwaitGone(t testing.TB, pids ...int) {
	t.Helper()
	for _, pid := range pids {
		Eventually(t, "process "+strconv.Itoa(pid)+" is gone", func() bool { return gone(pid) })
	}
}

// poll reports whether cond has returned true before the deadline.
func poll(deadline time.Time, cond func() bool) bool {
	for pause := time.Millisecond; !cond(); pause = min(2*pause, 20*time.Millisecond) {
		if time.Now().After(deadline) {
			return false
		}
		time.Sleep(pause)
	}
	return true
}
