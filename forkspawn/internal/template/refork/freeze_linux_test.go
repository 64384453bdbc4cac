//go:build amd64 || arm64

package refork

import (
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/spawnwire/spawnwire/internal/testkit"
)

// A freeze has time for one list only, as on a busy machine. It needs a second one
// after the last thread has stopped.
func TestFreeze_OneListTakesAllItsTime(t *testing.T) {
	f, err := Prepare()
	if err != nil { // with cgo, or the race detector
		exe := testkit.BuildTests(t, ".", "CGO_ENABLED=0")
		out, err := exec.Command(exe, "-test.v", "-test.run=^"+t.Name()+"$").CombinedOutput()
		require.NoError(t, err, "%s", out)
		assert.Contains(t, string(out), "--- PASS: "+t.Name())
		return
	}
	require.NoError(t, f.open())
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	testkit.Eventually(t, "the threads stop", func() bool {
		f.a.wait = 1
		onlyFreeze(f.a)
		return f.a.result.code == ok
	})
}

// onlyFreeze is freezeAndFork without the fork.
//
//go:nosplit
//go:noinline
func onlyFreeze(a *arena) {
	all, old := uintptr(unsafe.Pointer(&allSignals)), uintptr(unsafe.Pointer(&a.oldMask))
	syscall.RawSyscall6(syscall.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, all, old, 8, 0, 0)
	a.g = currentG()
	call(func(a *arena) {
		a.result = freeze(a)
		thaw(a)
	}, a, uintptr(unsafe.Pointer(&a.stackTop)), uintptr(unsafe.Pointer(&a.zeroG)))
	syscall.RawSyscall6(syscall.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, old, 0, 8, 0, 0)
}
