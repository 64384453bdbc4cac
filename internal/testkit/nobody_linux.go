package testkit

import (
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// AsNobody calls f without root's rights to files, if the test runs as root.
// It sets the user of one thread for access to files (setfsuid(2)), and the
// thread ends with f. f must not call t.FailNow.
func AsNobody(t testing.TB, f func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		f()
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // without an unlock
		unix.Setfsuid(65534)
		f()
	}()
	<-done
}
