package forkspawn

import (
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// The way of other platforms and older kernels, on this one.
func TestMarkedStartKeepsOnlyStdioToo(t *testing.T) {
	leak, err := unix.Open("/etc/hostname", unix.O_RDONLY, 0) // no close-on-exec
	require.NoError(t, err)
	defer unix.Close(leak)
	r, w, err := pipe()
	require.NoError(t, err)
	defer r.Close()
	null, err := os.Open(os.DevNull)
	require.NoError(t, err)
	defer null.Close()
	fds := [3]int{int(null.Fd()), int(w.Fd()), int(w.Fd())}
	pid, pidfd, err := startMarked("/bin/ls", []string{"ls", "/proc/self/fd"}, os.Environ(), fds, &ProcessAttr{OwnGroup: true})
	w.Close()
	require.NoError(t, err)
	proc := &OSProcess{pid: pid, ownGroup: true, handle: newHandle(pid, pidfd)}
	out := make([]byte, 1000)
	n, err := r.Read(out)
	require.NoError(t, err)
	assert.Equal(t, []string{"0", "1", "2", "3"}, strings.Fields(string(out[:n])), "3 is ls's own, the directory")
	assert.True(t, proc.Wait().Success())

	flags, err := unix.FcntlInt(uintptr(leak), unix.F_GETFD, 0)
	require.NoError(t, err)
	assert.Zero(t, flags&unix.FD_CLOEXEC, "the mark is taken back")
}

func TestWaitWorksWithoutAPidfd(t *testing.T) {
	proc, err := StartProcess(ProcessAttr{Command: Command{Path: "sh", Args: []string{"-c", "exit 6"}}, OwnGroup: true})
	require.NoError(t, err)
	proc.handle.file.Close()
	proc.handle = handle{} // as on a kernel that has none
	assert.Equal(t, Exited(6), proc.Wait())

	proc, err = StartProcess(ProcessAttr{Command: Command{Path: "sleep", Args: []string{"60"}}})
	require.NoError(t, err)
	proc.handle.file.Close()
	proc.handle = handle{}
	require.NoError(t, proc.Signal(syscall.SIGKILL, false))
	assert.Equal(t, Killed(syscall.SIGKILL, false), proc.Wait())
}

func TestDescriptorsAreFoundWithoutProc(t *testing.T) {
	leak, err := unix.Open("/etc/hostname", unix.O_RDONLY, 0)
	require.NoError(t, err)
	defer unix.Close(leak)
	assert.Contains(t, probeDescriptors(), leak)
	listed, err := leakingDescriptors()
	require.NoError(t, err)
	assert.Equal(t, probeDescriptors(), listed)
}

func TestTailKeepsTheLastBytes(t *testing.T) {
	var tl tail
	var all strings.Builder
	for i := range 3000 {
		chunk := strings.Repeat(string(rune('a'+i%26)), i%7)
		if i == 1000 {
			chunk = strings.Repeat("0123456789", 900) // more than the whole tail at once
		}
		tl.write([]byte(chunk))
		all.WriteString(chunk)
		s := all.String()
		require.Equal(t, s[max(0, len(s)-tailSize):], string(tl.buf))
	}
}

func TestErrorsQuoteNoMoreOfALineThanIsOfUse(t *testing.T) {
	assert.Equal(t, `"short"`, quoted("short"))
	text := quoted(strings.Repeat("\x00", 4096) + "the end")
	assert.Less(t, len(text), 3000, "four bytes for each, quoted")
	assert.Contains(t, text, `the end"`)
	assert.Contains(t, text, "(3591 bytes)")
}

func TestLastLinePrefersThePanic(t *testing.T) {
	assert.Equal(t, "", lastLine(" \n\n"))
	assert.Equal(t, "two", lastLine("one\n two \n\n"))
	assert.Equal(t, "panic: boom", lastLine("start\npanic: boom\n\ngoroutine 1 [running]:\nmain.main()\n\t/x.go:3 +0x1d\nexit status 2\n"))
}
