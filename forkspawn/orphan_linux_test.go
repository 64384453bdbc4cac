package forkspawn_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
	"github.com/spawnwire/spawnwire/spawnspec"
)

func init() {
	// daemons starts a plain program that leaves the child's session and group and lives on, and goes on itself until it is ended,
	// or exits at once if its arguments say so.
	forkspawn.Register("daemons", func(ctx context.Context, p *forkspawn.Parent) error {
		var args struct {
			PIDFile string
			Exit    bool
		}
		if err := p.Spec.DecodeArgs(&args); err != nil {
			return err
		}
		cmd := exec.Command("sh", "-c", `setsid sh -c 'echo $$ >"$0.new"; mv "$0.new" "$0"; exec sleep 600' "$0" &`, args.PIDFile)
		if err := cmd.Run(); err != nil {
			return err
		}
		for { // sh has gone, and what it left takes its time
			if _, err := os.Stat(args.PIDFile); err == nil {
				break
			}
			time.Sleep(time.Millisecond)
		}
		if err := p.Send(ctx, "left"); err != nil || args.Exit {
			return err
		}
		<-ctx.Done()
		return nil
	})
}

// spawnDaemons returns a child that has left a daemon, and the daemon's pid.
func spawnDaemons(t *testing.T, s *forkspawn.Spawner, exit bool) (*forkspawn.Child, int) {
	t.Helper()
	pidFile := filepath.Join(t.TempDir(), "pid")
	c := spawn(t, s, spawnspec.Spec{Entry: "daemons", Args: map[string]any{"PIDFile": pidFile, "Exit": exit}})
	var left string
	require.NoError(t, c.Recv(testContext(t), &left))
	b, err := os.ReadFile(pidFile)
	require.NoError(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	require.NoError(t, err)
	return c, pid
}

func TestSubreaperEndsWhatHasLeftTheGroup(t *testing.T) {
	spawntest.NoLeaks(t)
	for how, end := range map[string]func(c *forkspawn.Child){
		"asked":      func(c *forkspawn.Child) { c.Stop(context.Background()) },
		"killed":     func(c *forkspawn.Child) { c.Kill() },
		"by itself":  func(c *forkspawn.Child) { c.Wait(context.Background()) },
		"with Close": nil,
	} {
		t.Run(how, func(t *testing.T) {
			s := newSpawner(t, forkspawn.Config{Subreaper: true})
			c, daemon := spawnDaemons(t, s, how == "by itself")
			if end != nil {
				end(c)
			} else {
				require.NoError(t, s.Close())
			}
			assert.Empty(t, spawntest.State(daemon), "neither alive nor a zombie, as soon as the child's end is known")
		})
	}
}

// What the option is for.
func TestWithoutSubreaperADaemonLivesOn(t *testing.T) {
	s := newSpawner(t, forkspawn.Config{})
	c, daemon := spawnDaemons(t, s, false)
	_, err := c.Stop(testContext(t))
	require.NoError(t, err)
	assert.True(t, running(daemon))
	require.NoError(t, syscall.Kill(daemon, syscall.SIGKILL))
	spawntest.AwaitGone(t, daemon)
}

func TestSubreaperTakesNobodyElsesStatus(t *testing.T) {
	spawntest.NoLeaks(t)
	s := newSpawner(t, forkspawn.Config{Subreaper: true})
	other := newSpawner(t, forkspawn.Config{Subreaper: true})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 20 {
				err := exec.Command("sh", "-c", "exit 7").Run()
				var exit *exec.ExitError
				if assert.ErrorAs(t, err, &exit) {
					assert.Equal(t, 7, exit.ExitCode())
				}
			}
		})
	}
	for _, s := range []*forkspawn.Spawner{s, other} {
		wg.Go(func() {
			for range 20 {
				c, err := s.Spawn(testContext(t), spawnspec.Spec{Entry: "exit", Args: 5})
				if assert.NoError(t, err) {
					status, err := c.Wait(testContext(t))
					assert.NoError(t, err)
					assert.Equal(t, forkspawn.Exited(5), status)
					c.Stop(context.Background())
				}
			}
		})
	}
	wg.Wait()
}

// Each with the other switched off: TestOrphansEndAfterTheirParentIsKilled. This is a whole tree.
func TestTreeEndsAfterAKill(t *testing.T) {
	spawntest.NoLeaks(t)
	for _, noSignal := range []bool{false, true} {
		for _, levels := range []int{3, 2, 1} { // below the one that is killed
			t.Run(fmt.Sprintf("%d levels, with the kernel's signal: %t", levels, !noSignal), func(t *testing.T) {
				s := newSpawner(t, forkspawn.Config{})
				c := spawn(t, s, spawnspec.Spec{
					Name: "r", Entry: "branch", Args: branch{Levels: levels, Breadth: 2, Heed: true, NoSignal: noSignal},
				})
				var pids []int
				require.NoError(t, c.Recv(testContext(t), &pids))
				require.Len(t, pids, 1<<(levels+1)-1)
				began := time.Now()
				_, err := c.Kill()
				require.NoError(t, err)
				for _, pid := range pids {
					eventually(t, "process "+itoa(pid)+" has ended", func() bool { return !running(pid) })
				}
				t.Logf("%d descendants had ended %v after the kill", len(pids)-1, time.Since(began))
			})
		}
	}
}

// An orphan that was told to live on (OnParentGone) is ended by Ctrl-C's signal as any process.
func TestInterruptEndsAnOrphan(t *testing.T) {
	spawntest.NoLeaks(t)
	s := newSpawner(t, forkspawn.Config{})
	c := spawn(t, s, spawnspec.Spec{Entry: "orphanage"})
	var orphan int
	require.NoError(t, c.Recv(testContext(t), &orphan))
	_, err := c.Kill()
	require.NoError(t, err)
	require.True(t, running(orphan))
	// The end of its connections keeps it from nothing, and does not keep it busy either.
	before := cpuTicks(t, orphan)
	time.Sleep(300 * time.Millisecond)
	assert.Less(t, cpuTicks(t, orphan)-before, 15, "ticks of 10 ms; a loop would have 30")
	require.NoError(t, syscall.Kill(orphan, syscall.SIGINT))
	spawntest.AwaitGone(t, orphan)
}

func init() {
	// orphanage has a child that goes on when its parent is gone.
	forkspawn.Register("orphanage", func(ctx context.Context, p *forkspawn.Parent) error {
		s, err := forkspawn.New(forkspawn.Config{NoParentDeathSignal: true})
		if err != nil {
			return err
		}
		defer s.Close()
		c, err := s.SpawnCommand(ctx, role("heedless"), spawnspec.Spec{Name: "heedless"})
		if err != nil {
			return err
		}
		if err := p.Send(ctx, c.PID()); err != nil {
			return err
		}
		<-ctx.Done()
		return nil
	})
}

// cpuTicks returns how long a process has computed, in ticks of 10 ms (proc_pid_stat(5)).
func cpuTicks(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile("/proc/" + itoa(pid) + "/stat")
	require.NoError(t, err)
	_, rest, _ := strings.Cut(string(b), ") ")
	fields := strings.Fields(rest)
	user, err := strconv.Atoi(fields[11])
	require.NoError(t, err)
	system, err := strconv.Atoi(fields[12])
	require.NoError(t, err)
	return user + system
}

// The kernel's signal comes when the thread ends that started a child: so none of the program's own threads does.
func TestChildOutlivesTheThreadThatAskedForIt(t *testing.T) {
	spawntest.NoLeaks(t)
	s := newSpawner(t, forkspawn.Config{})
	spawned := make(chan *forkspawn.Child)
	ended := make(chan int, 1)
	go onAThreadOfItsOwn(func() {
		ended <- syscall.Gettid()
		c, err := s.Spawn(context.Background(), spawnspec.Spec{Entry: "echo"})
		assert.NoError(t, err)
		spawned <- c
	})
	c := <-spawned
	require.NotNil(t, c)
	tid := <-ended
	eventually(t, "the thread has ended", func() bool {
		_, err := os.Stat("/proc/self/task/" + itoa(tid))
		return err != nil
	})
	require.NoError(t, c.Send(testContext(t), "are you there"))
	var got string
	require.NoError(t, c.Recv(testContext(t), &got))
}

// onAThreadOfItsOwn calls f on a thread that ends when its goroutine, which is the caller's, does.
func onAThreadOfItsOwn(f func()) {
	runtime.LockOSThread() // and never unlocked
	if syscall.Gettid() != os.Getpid() {
		f()
		return
	}
	// The program's first thread never ends: on another, while this one is taken.
	done := make(chan struct{})
	go func() {
		defer close(done)
		onAThreadOfItsOwn(f)
	}()
	<-done
	runtime.UnlockOSThread()
}
