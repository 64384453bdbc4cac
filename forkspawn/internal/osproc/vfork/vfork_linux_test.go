//go:build (amd64 || arm64) && !portable

package vfork

import (
	"os"
	"os/signal"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// run starts a program and returns its output and its status.
func run(t testing.TB, a Attr) (string, syscall.WaitStatus) {
	t.Helper()
	var p [2]int
	require.NoError(t, syscall.Pipe2(p[:], syscall.O_CLOEXEC))
	defer syscall.Close(p[0])
	null, err := syscall.Open("/dev/null", syscall.O_RDWR|syscall.O_CLOEXEC, 0)
	require.NoError(t, err)
	a.Files = []int{null, p[1], p[1]}
	pid, pidfd, err := Start(t.Context(), &a)
	syscall.Close(p[1])
	syscall.Close(null)
	require.NoError(t, err)
	defer syscall.Close(pidfd)
	var out strings.Builder
	buf := make([]byte, 4096)
	for {
		n, err := syscall.Read(p[0], buf)
		if err == syscall.EINTR {
			continue
		}
		require.NoError(t, err)
		if n == 0 {
			break
		}
		out.Write(buf[:n])
	}
	var status syscall.WaitStatus
	for {
		if _, err = syscall.Wait4(pid, &status, 0, nil); err != syscall.EINTR {
			break
		}
	}
	require.NoError(t, err)
	return out.String(), status
}

func sh(script string) Attr {
	return Attr{Path: "/bin/sh", Args: []string{"sh", "-c", script}, Env: os.Environ()}
}

func TestMain(m *testing.M) {
	if !Supported() {
		os.Stderr.WriteString(
			"vfork: this kernel, or its sandbox, lacks clone3 or close_range: nothing to test\n")
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestChildKeepsOnlyStdio(t *testing.T) {
	// Leaked on purpose: no close-on-exec, one of them far up.
	low, err := syscall.Open("/etc/hostname", syscall.O_RDONLY, 0)
	require.NoError(t, err)
	defer syscall.Close(low)
	high := 900
	require.NoError(t, unix.Dup3(low, high, 0))
	defer syscall.Close(high)

	// The shell's own listing has one descriptor more, the directory of ls.
	out, status := run(t, Attr{Path: "/bin/ls", Args: []string{"ls", "/proc/self/fd"}, Env: nil})
	assert.Equal(t, 0, status.ExitStatus())
	assert.Equal(t, []string{"0", "1", "2", "3"}, strings.Fields(out))

	for _, fd := range []int{low, high} {
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		require.NoError(t, err, "the parent's descriptor is open still")
		assert.Zero(t, flags&unix.FD_CLOEXEC, "and keeps its flags")
	}
}

func TestStdioMayBeGivenInAnyOrder(t *testing.T) {
	// This test shuffles descriptors 0, 1 and 2 and puts them back at its end.
	save := make([]int, 3)
	for i := range save {
		fd, err := unix.FcntlInt(uintptr(i), unix.F_DUPFD_CLOEXEC, 10)
		require.NoError(t, err)
		save[i] = fd
	}
	var p [2]int
	require.NoError(t, syscall.Pipe2(p[:], syscall.O_CLOEXEC))
	null, err := syscall.Open("/dev/null", syscall.O_RDWR|syscall.O_CLOEXEC, 0)
	require.NoError(t, err)
	// 0 is where output goes, 1 is where input comes from, 2 as 0.
	require.NoError(t, syscall.Dup3(p[1], 0, syscall.O_CLOEXEC))
	require.NoError(t, syscall.Dup3(null, 1, syscall.O_CLOEXEC))
	a := sh("echo out; echo err >&2")
	a.Files = []int{1, 0, 0}
	pid, pidfd, err := Start(t.Context(), &a)
	for i, fd := range save {
		unix.Dup3(fd, i, 0)
		syscall.Close(fd)
	}
	syscall.Close(p[1])
	syscall.Close(null)
	require.NoError(t, err)
	defer syscall.Close(pidfd)
	buf := make([]byte, 100)
	got := ""
	for {
		n, err := syscall.Read(p[0], buf)
		if err == syscall.EINTR {
			continue
		}
		if n <= 0 {
			break
		}
		got += string(buf[:n])
	}
	syscall.Close(p[0])
	reap(pid)
	assert.Equal(t, "out\nerr\n", got)
}

func TestChildHasDefaultSignalsAndAnEmptyMask(t *testing.T) {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGUSR1, syscall.SIGTERM)
	defer signal.Stop(c)
	signal.Ignore(syscall.SIGUSR2)
	defer signal.Reset(syscall.SIGUSR2)
	out, _ := run(t, Attr{Path: "/bin/cat", Args: []string{"cat", "/proc/self/status"}})
	own, err := os.ReadFile("/proc/self/status")
	require.NoError(t, err)
	fields, ours := statusFields(out), statusFields(string(own))
	assert.Equal(t, "0000000000000000", fields["SigBlk"])
	assert.Equal(t, "0000000000000000", fields["SigCgt"])
	assert.Regexp(t, "8..$", ours["SigIgn"], "SIGUSR2, and what others have had ignored")
	assert.Equal(t, ours["SigIgn"], fields["SigIgn"],
		"what the parent ignores stays ignored, as nohup needs it")
}

// statusFields splits a text in the form of /proc/PID/status.
func statusFields(text string) map[string]string {
	fields := map[string]string{}
	for line := range strings.Lines(text) {
		k, v, _ := strings.Cut(line, ":")
		fields[k] = strings.TrimSpace(v)
	}
	return fields
}

func TestFailuresNameTheirStepAndLeaveNothing(t *testing.T) {
	text := t.TempDir() + "/text"
	require.NoError(t, os.WriteFile(text, []byte("not a program"), 0o755))
	for _, c := range []struct {
		name string
		attr Attr
		step string
		err  syscall.Errno
	}{
		{"missing", Attr{Path: "/nonexistent", Args: []string{"x"}}, "execve", syscall.ENOENT},
		{"a directory", Attr{Path: "/", Args: []string{"x"}}, "execve", syscall.EACCES},
		{"not a program", Attr{Path: text, Args: []string{"x"}}, "execve", syscall.ENOEXEC},
		{"missing directory", Attr{Path: "/bin/true", Args: []string{"x"}, Dir: "/nonexistent"},
			"chdir", syscall.ENOENT},
		{"bad descriptor",
			Attr{Path: "/bin/true", Args: []string{"x"}, Files: []int{0, 1, 800}}, "dup3",
			syscall.EBADF},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.attr.Files == nil {
				c.attr.Files = []int{0, 1, 2}
			}
			_, _, err := Start(t.Context(), &c.attr)
			var e *Error
			require.ErrorAs(t, err, &e)
			assert.Equal(t, c.step, e.Step)
			assert.ErrorIs(t, err, c.err)
			_, err = syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
			assert.Equal(t, syscall.ECHILD, err, "no zombie")
		})
	}
}

func TestGroupDirectoryEnvironmentAndPidfd(t *testing.T) {
	a := sh(`pwd; echo "$X"; test "$(ps -o pgid= -p $$ | tr -d ' ')" = $$ && echo leader`)
	a.Env = []string{"X=hello", "PATH=/usr/bin:/bin"}
	a.Dir = "/"
	a.OwnGroup = true
	out, status := run(t, a)
	assert.Equal(t, "/\nhello\nleader\n", out)
	assert.Equal(t, 0, status.ExitStatus())
}

func TestManyStartsBesideABusyRuntime(t *testing.T) {
	// Collections, goroutines and signals while children start from several threads.
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				runtime.GC()
				syscall.Kill(os.Getpid(), syscall.SIGURG)
			}
		}
	})
	var starters sync.WaitGroup
	for range 4 {
		starters.Go(func() {
			for range 50 {
				out, status := run(t, sh("echo $((6*7))"))
				assert.Equal(t, "42\n", out)
				assert.Equal(t, 0, status.ExitStatus())
			}
		})
	}
	starters.Wait()
	close(stop)
	wg.Wait()
}
