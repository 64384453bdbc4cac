//go:build amd64 || arm64

package forkspawn_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
)

// untidyFiles is the number of descriptors that the warm-up "untidy" leaves
// open.
const untidyFiles = 6

// untidy is what the warm-up "untidy" leaves.
var untidy struct {
	file     *os.File
	reader   *os.File // of a pipe
	listener net.Listener
	got      chan error // the result of a goroutine that reads from the pipe
}

func init() {
	forkspawn.RegisterWarmUp("untidy", func() (err error) {
		signal.Notify(make(chan os.Signal, 1), syscall.SIGUSR1)
		signal.Ignore(syscall.SIGUSR2)
		if untidy.file, err = os.Open("/etc/passwd"); err != nil {
			return err
		}
		var w *os.File
		if untidy.reader, w, err = os.Pipe(); err != nil {
			return err
		}
		w.Write([]byte("x"))
		if untidy.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			return err
		}
		conn, err := net.Dial("tcp", untidy.listener.Addr().String())
		if err != nil {
			return err
		}
		accepted, err := untidy.listener.Accept()
		if err != nil {
			return err
		}
		untidy.got = make(chan error, 1)
		var one [1]byte
		untidy.reader.Read(one[:])
		go func() {
			_, err := untidy.reader.Read(one[:]) // no EOF as long as this process has w
			untidy.got <- err
			runtime.KeepAlive(w)
			runtime.KeepAlive(conn)
			runtime.KeepAlive(accepted)
		}()
		return nil
	})
	moreEntries["untidy"] = func(ctx context.Context, p *forkspawn.Parent) error {
		report := map[string]string{}
		_, err := untidy.file.Read(make([]byte, 1))
		report["file"] = fmt.Sprint(err)
		untidy.listener.(*net.TCPListener).SetDeadline(time.Now().Add(20 * time.Millisecond))
		_, err = untidy.listener.Accept()
		report["listener"] = strconv.FormatBool(errors.Is(err, os.ErrDeadlineExceeded))
		select {
		case err := <-untidy.got:
			report["pipe"] = fmt.Sprint(err)
		case <-ctx.Done():
			return ctx.Err()
		}
		conn, err := net.Dial("tcp", untidy.listener.Addr().String())
		if err == nil {
			conn.Close()
		}
		report["accepts"] = strconv.FormatBool(err == nil) // the template's
		report["ignores"] = strconv.FormatBool(signal.Ignored(syscall.SIGUSR2))
		return p.Send(ctx, report)
	}
	moreEntries["state"] = func(ctx context.Context, p *forkspawn.Parent) error {
		state, err := processState()
		if err != nil {
			return err
		}
		return p.Send(ctx, state)
	}
}

// processState returns the kernel's state of this process, as far as a program
// could depend on it.
func processState() (map[string]string, error) {
	state := map[string]string{}
	read := func(name string) string {
		b, err := os.ReadFile("/proc/self/" + name)
		if err != nil {
			return err.Error()
		}
		return strings.TrimSpace(string(bytes.ReplaceAll(b, []byte{0}, []byte{'\n'})))
	}
	// another thread may be in a signal handler
	for line := range strings.Lines(read("../thread-self/status")) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		state["status "+key] = strings.TrimSpace(value)
	}
	for line := range strings.Lines(read("limits")) {
		state["limit "+strings.TrimSpace(line[:min(26, len(line))])] = strings.Join(
			strings.Fields(line[min(26, len(line)):]), " ")
	}
	for _, name := range []string{"cmdline", "comm", "cgroup", "oom_score_adj", "personality",
		"timerslack_ns", "coredump_filter", "loginuid", "setgroups"} {
		state[name] = read(name)
	}
	for _, name := range []string{"exe", "cwd", "root", "ns/mnt", "ns/pid", "ns/net", "ns/user",
		"ns/ipc", "ns/uts", "ns/cgroup"} {
		link, err := os.Readlink("/proc/self/" + name)
		state[name] = fmt.Sprint(link, err)
	}
	environ := strings.Split(read("environ"), "\n")
	slices.Sort(environ)
	state["environ"] = strings.Join(environ, "\n")
	environ = os.Environ()
	slices.Sort(environ)
	state["os.Environ"] = strings.Join(environ, "\n")
	state["os.Args"] = strings.Join(os.Args, "\n")

	_, stat, _ := strings.Cut(read("stat"), ") ")
	fields := strings.Fields(stat) // from the third on: proc_pid_stat(5)
	for n, name := range map[int]string{4: "parent", 6: "session", 7: "terminal", 18: "priority",
		19: "nice", 38: "exit signal", 40: "rt_priority", 41: "policy"} {
		state[name] = fields[n-3]
	}
	state["leads its group"] = strconv.FormatBool(syscall.Getpgrp() == os.Getpid())
	var reaper int32
	if err := unix.Prctl(unix.PR_GET_CHILD_SUBREAPER,
		uintptr(unsafe.Pointer(&reaper)), 0, 0, 0); err != nil {
		return nil, err
	}
	state["subreaper"] = strconv.Itoa(int(reaper))
	for name, option := range map[string]int{"dumpable": unix.PR_GET_DUMPABLE,
		"securebits": unix.PR_GET_SECUREBITS} {
		n, err := unix.PrctlRetInt(option, 0, 0, 0, 0)
		state[name] = fmt.Sprint(n, err)
	}
	affinity := unix.CPUSet{}
	if err := unix.SchedGetaffinity(0, &affinity); err != nil {
		return nil, err
	}
	state["cpus"] = fmt.Sprint(affinity.Count())

	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil, err
	}
	var kinds []string
	sockets := 0
	for _, fd := range fds {
		link, err := os.Readlink("/proc/self/fd/" + fd.Name())
		if err != nil || strings.HasSuffix(link, "/fd") {
			continue
		}
		kind, _, _ := strings.Cut(link, ":[")
		if kind == "socket" {
			sockets++
			continue
		}
		if n, _ := strconv.Atoi(fd.Name()); n <= 2 {
			kind = fd.Name() + " " + kind
		}
		kinds = append(kinds, kind)
	}
	slices.Sort(kinds)
	state["sockets"] = strconv.Itoa(sockets)
	state["descriptors"] = strings.Join(kinds, "\n")
	return state, nil
}

// volatile matches values that differ between any two processes, or between threads:
// one that was there before Init keeps its name, and "comm" is the first thread's.
var volatile = regexp.MustCompile(
	`^status (Name|State|Pid|Tgid|Ngid|NS.*|SigPnd|ShdPnd|Vm.*|Rss.*|HugetlbPages|FDSize|SigQ|Threads|.*_ctxt_switches)$`)

// The test compares the kernel's state of an executed and a forked child of the
// same Config. It allows the differences that RegisterWarmUp documents.
func TestForked_HasTheStateOfAnExecutedChild(t *testing.T) {
	needForks(t)
	ignore(t, syscall.SIGHUP) // as after nohup
	state := func(s *forkspawn.Spawner) (state map[string]string) {
		t.Helper()
		c := spawn(t, s, spawnspec.Spec{Entry: "state"})
		require.NoError(t, c.Recv(testkit.Context(t), &state))
		return state
	}
	executed := state(newSpawner(t, forkspawn.Config{Method: forkspawn.MethodExec}))
	forked := state(forking(t, func(cfg *forkspawn.Config) { cfg.WarmUp = "untidy" }))

	var vars []string
	for v := range strings.Lines(forked["environ"]) {
		if !strings.HasPrefix(v, "SPAWNWIRE_TEMPLATE=") {
			vars = append(vars, v)
		}
	}
	assert.NotEqual(t, executed["environ"], forked["environ"], "in /proc it is the template's")
	forked["environ"] = strings.Join(vars, "")
	assert.Equal(t, signals(t, executed["status SigCgt"])|1<<33,
		signals(t, forked["status SigCgt"]), "signal 34 has a handler")
	forked["status SigCgt"] = executed["status SigCgt"]
	for _, m := range []map[string]string{executed, forked} {
		n, err := strconv.Atoi(m["sockets"])
		require.NoError(t, err)
		assert.LessOrEqual(t, n, 3+untidyFiles,
			"the channel, the control connection, which has two numbers as it is attached, and what is dead")
	}
	executed["sockets"] = forked["sockets"]
	executed["descriptors"] = "/etc/passwd\n" + executed["descriptors"] // the warm-up's
	for key, value := range executed {
		if !volatile.MatchString(key) {
			assert.Equal(t, value, forked[key], key)
		}
	}
	assert.Greater(t, len(executed), 50, "it was looked at")
}

func signals(t *testing.T, s string) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(s, 16, 64)
	require.NoError(t, err)
	return n
}

// The connections are dead in a child, and alive in the template.
func TestForked_WarmUpsConnectionsAreDead(t *testing.T) {
	needForks(t)
	var log testkit.Output
	s := forking(t, func(cfg *forkspawn.Config) {
		cfg.WarmUp, cfg.Logger = "untidy", slog.New(slog.NewTextHandler(&log, nil))
	})
	// the first child must not shut down the files of the template and the second child
	for range 2 {
		var report map[string]string
		require.NoError(t,
			spawn(t, s, spawnspec.Spec{Entry: "untidy"}).Recv(testkit.Context(t), &report))
		assert.Equal(t, map[string]string{
			"file": "<nil>", "pipe": "EOF", "listener": "true",
			"accepts": "true", "ignores": "false",
		}, report)
	}
	assert.Regexp(t, `children cannot use .* files="pipe:\S+, pipe:\S+, socket:\S+, socket:`, log.String())
}

// No child may have the dropped privileges, and the template has them.
func TestTemplate_IsReplacedAfterADropOfPrivileges(t *testing.T) {
	needForks(t)
	alone(t, 0, func(t *testing.T) {
		testkit.NeedRoot(t)
		// The directory of a Unix socket would belong to root.
		s := forking(t, func(cfg *forkspawn.Config) {
			cfg.Listen = transport.Addr{Scheme: "tcp", Target: "127.0.0.1:0"}
		})
		c, before := spawnWarm(t, s)
		_, err := c.Stop(testkit.Context(t))
		require.NoError(t, err)
		become(t, nobody)
		c, after := spawnWarm(t, s)
		assert.NotEqual(t, before.Template, after.Template)
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.PID()))
		require.NoError(t, err)
		assert.Regexp(t, `(?m)^Uid:(\s`+itoa(nobody)+`){4}$`, string(status))
		testkit.Eventually(t, "the old one has ended", func() bool {
			return spawntest.State(before.Template) == ""
		})
	})
}

// The test changes credentials in all threads, as package syscall and libcap
// do. A forked child has the same credentials as an executed one after each
// change.
func TestTemplate_IsReplacedAfterAChangeOfCredentials(t *testing.T) {
	testkit.Long(t)
	needForks(t)
	alone(t, syscall.CLONE_NEWNS, func(t *testing.T) {
		testkit.NeedRoot(t)
		if err := syscall.Setgroups(nil); err != nil {
			t.Skip("may not change its groups:", err) // as in a user namespace
		}
		log := newLines()
		s := forking(t, func(cfg *forkspawn.Config) { cfg.Logger = slog.New(log) })
		allThreads := func(trap, a, b, c uintptr) {
			t.Helper()
			_, _, errno := syscall.AllThreadsSyscall(trap, a, b, c)
			require.Zero(t, errno)
		}
		_, last := spawnWarm(t, s)
		replaced := 0
		for _, change := range []struct {
			what string
			make func()
		}{
			{"", func() {}},
			{"supplementary groups", func() {
				require.NoError(t, syscall.Setgroups([]int{nobody, nobody + 1}))
			}},
			{"supplementary groups", func() {
				var many []int
				for i := range 100 {
					many = append(many, nobody+i)
				}
				require.NoError(t, syscall.Setgroups(many))
			}},
			{"supplementary groups", func() { require.NoError(t, syscall.Setgroups([]int{0})) }},
			{"supplementary groups", func() { require.NoError(t, syscall.Setgroups(nil)) }},
			{"root directory", func() {
				require.NoError(t,
					syscall.Mount("/", "/srv", "", syscall.MS_BIND|syscall.MS_REC, ""))
				require.NoError(t, syscall.Chroot("/srv"))
				require.NoError(t, syscall.Chdir("/"))
			}},
			// SECBIT_KEEP_CAPS_LOCKED
			{"securebits", func() { allThreads(unix.SYS_PRCTL, unix.PR_SET_SECUREBITS, 1<<5, 0) }},
			{"capabilities", func() {
				header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
				var all [2]unix.CapUserData
				require.NoError(t, unix.Capget(&header, &all[0]))
				all[0].Effective &^= 1 << unix.CAP_SYS_TIME
				all[0].Permitted &^= 1 << unix.CAP_SYS_TIME
				allThreads(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)),
					uintptr(unsafe.Pointer(&all)), 0)
				// otherwise the next exec restores it
				allThreads(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, unix.CAP_SYS_TIME, 0)
			}},
			{"no_new_privs", func() { allThreads(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0) }},
			{"seccomp mode", func() {
				allow := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K,
					K: unix.SECCOMP_RET_ALLOW}}
				filter := unix.SockFprog{Len: 1, Filter: &allow[0]}
				_, _, errno := syscall.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER,
					unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&filter)))
				require.Zero(t, errno)
			}},
		} {
			change.make()
			c, r := spawnWarm(t, s)
			if change.what == "" {
				assert.Equal(t, last.Template, r.Template)
				continue
			}
			replaced++
			assert.NotEqual(t, last.Template, r.Template, change.what)
			assert.Equal(t, replaced, log.of("forkspawn: another template is started"), change.what)
			assert.Equal(t, credentialsOf(t, os.Getpid()), credentialsOf(t, c.PID()), change.what)
			_, again := spawnWarm(t, s)
			assert.Equal(t, r.Template, again.Template, "once is enough")
			last = r
		}
	})
}

// credentialsOf returns a process's credentials in /proc, and the mount of its
// root.
func credentialsOf(t *testing.T, pid int) string {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	require.NoError(t, err)
	lines := regexp.MustCompile(
		`(?m)^(Uid|Gid|Groups|Cap\w+|NoNewPrivs|Seccomp\w*):.*$`).FindAllString(string(status), -1)
	require.Greater(t, len(lines), 9)
	var root unix.Statx_t
	require.NoError(t,
		unix.Statx(unix.AT_FDCWD, fmt.Sprintf("/proc/%d/root/", pid), 0,
			unix.STATX_INO|unix.STATX_MNT_ID, &root))
	return fmt.Sprintf("%s\nroot %d %d", strings.Join(lines, "\n"), root.Mnt_id, root.Ino)
}
