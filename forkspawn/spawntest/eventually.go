package spawntest

import (
	"strconv"
	"testing"
	"time"
)

// bound ends a wait for something that does not come. It is there to find hangs. Tests set it.
var bound = time.Minute

// maxPause is how long apart two looks are at most.
const maxPause = 20 * time.Millisecond

// Eventually waits until cond is true, for a minute at most; then the test fails at once, and says what it has
// waited for. It calls cond in the test's own goroutine, so that cond can use t, at once and then every few
// milliseconds.
func Eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	began := time.Now()
	for pause := time.Millisecond; !cond(); pause = min(2*pause, maxPause) {
		if time.Since(began) > bound {
			t.Fatalf("spawntest: waited %v for this: %s", bound, what)
		}
		time.Sleep(pause)
	}
}

// AwaitGone waits until there are no processes with these numbers. A zombie is there as long as it is this
// process that has to wait for it; if it is somebody else's it is gone.
func AwaitGone(t testing.TB, pids ...int) {
	t.Helper()
	for _, pid := range pids {
		Eventually(t, "process "+strconv.Itoa(pid)+" is gone", func() bool { return gone(pid) })
	}
}
