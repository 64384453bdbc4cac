package osproc

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
func TestStdio_MarkedStartKeepsOnlyStdioToo(t *testing.T) {
	leak, err := unix.Open("/etc/hostname", unix.O_RDONLY, 0) // no close-on-exec
	require.NoError(t, err)
	defer unix.Close(leak)
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer r.Close()
	null, err := os.Open(os.DevNull)
	require.NoError(t, err)
	defer null.Close()
	fds := []int{int(null.Fd()), int(w.Fd()), int(w.Fd())}
	pid, pidfd, err := startMarked("/bin/ls", []string{"ls", "/proc/self/fd"}, os.Environ(),
		fds, &Attr{OwnGroup: true})
	w.Close()
	require.NoError(t, err)
	proc := &Process{pid: pid, ownGroup: true, handle: newHandle(pid, pidfd)}
	out := make([]byte, 1000)
	n, err := r.Read(out)
	require.NoError(t, err)
	assert.Equal(t, []string{"0", "1", "2", "3"}, strings.Fields(string(out[:n])),
		"3 is ls's own, the directory")
	assert.True(t, proc.Wait() == Exited(0))

	flags, err := unix.FcntlInt(uintptr(leak), unix.F_GETFD, 0)
	require.NoError(t, err)
	assert.Zero(t, flags&unix.FD_CLOEXEC, "the mark is taken back")
}

func TestStartProcess_WaitsWithoutAPidfd(t *testing.T) {
	proc, err := Start(t.Context(),
		&Attr{Command: Command{Path: "sh", Args: []string{"-c", "exit 6"}}, OwnGroup: true})
	require.NoError(t, err)
	proc.handle.file.Close()
	proc.handle = handle{} // as on a kernel that has none
	assert.Equal(t, Exited(6), proc.Wait())

	proc, err = Start(t.Context(), &Attr{Command: Command{Path: "sleep", Args: []string{"60"}}})
	require.NoError(t, err)
	proc.handle.file.Close()
	proc.handle = handle{}
	require.NoError(t, proc.Signal(syscall.SIGKILL))
	assert.Equal(t, Killed(syscall.SIGKILL, false), proc.Wait())
}

func TestStdio_DescriptorsAreFoundWithoutProc(t *testing.T) {
	leak, err := unix.Open("/etc/hostname", unix.O_RDONLY, 0)
	require.NoError(t, err)
	defer unix.Close(leak)
	assert.Contains(t, probeDescriptors(), leak)
	listed, err := leakingDescriptors()
	require.NoError(t, err)
	assert.Equal(t, probeDescriptors(), listed)
}
