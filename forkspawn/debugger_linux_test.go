package forkspawn_test

import (
	"context"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/internal/testkit/roles"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// hold attaches to a process as a debugger does, until letGo is called. One
// thread must do both.
func hold(pid int) (letGo func(), err error) {
	attached, release, released := make(chan error), make(chan struct{}), make(chan struct{})
	go onAThreadOfItsOwn(func() { // the end of the thread detaches (ptrace(2))
		defer close(released)
		attached <- unix.PtraceSeize(pid)
		<-release
	})
	err = <-attached
	return func() {
		close(release)
		<-released
	}, err
}

// afterAll is longer than all graces and time-outs of these children.
const afterAll = 300 * time.Millisecond

func TestDebugger_StopLeavesTheChildAlone(t *testing.T) {
	for _, wait := range []bool{true, false} {
		signals := make(chan syscall.Signal, 10)
		s := newSpawner(t, forkspawn.Config{
			StopGrace: time.Millisecond, TermGrace: bound, WaitForDebugger: wait,
			Trace: &forkspawn.Trace{
				Signalled: func(_ forkspawn.ChildEvent, sig syscall.Signal, _ bool, _ error) {
					signals <- sig
				}},
		})
		c := spawn(t, s, spawnspec.Spec{Entry: "ignores-requests"})
		var ready string
		require.NoError(t, c.Recv(testkit.Context(t), &ready))
		letGo, err := hold(c.PID())
		if err != nil {
			letGo()
			t.Skip("cannot attach to a process here:", err)
		}
		stopped := make(chan forkspawn.StopResult, 1)
		go func() {
			r, _ := c.Stop(context.Background())
			stopped <- r
		}()
		if wait {
			select {
			case i := <-signals:
				assert.Fail(t, "a signal under the debugger", "%v", i)
			case <-time.After(afterAll):
			}
			letGo()
			assert.Equal(t, forkspawn.Terminated, (<-stopped).By)
			continue
		}
		<-signals // this debugger discards the signal when it detaches
		letGo()
		_, err = c.Kill()
		require.NoError(t, err)
		<-stopped
	}
}

func TestDebugger_BootHasNoTimeout(t *testing.T) {
	type debugger struct {
		letGo func()
		err   error
	}
	for limit := afterAll / 4; ; limit *= 2 {
		attached := make(chan debugger, 1)
		s := newSpawner(t, forkspawn.Config{
			BootTimeout: limit, WaitForDebugger: true,
			Trace: &forkspawn.Trace{Started: func(e forkspawn.ChildEvent) {
				letGo, err := hold(e.PID)
				attached <- debugger{letGo, err}
			}},
		})
		failed := make(chan error, 1)
		go func() {
			_, err := s.Spawn(context.Background(), spawnspec.Spec{Name: "mute"},
				forkspawn.WithCommand(roles.Command("never-connects")))
			failed <- err
		}()
		var d debugger
		select {
		case d = <-attached:
		case err := <-failed:
			require.ErrorIs(t, err, forkspawn.ErrBootTimeout)
			require.Less(t, limit, bound)
			continue // the time was over before the process was started
		}
		if d.err != nil {
			d.letGo()
			<-failed
			t.Skip("cannot attach to a process here:", d.err)
		}
		select {
		case err := <-failed:
			d.letGo()
			require.Fail(t, "it ended under the debugger", "%v", err)
		case <-time.After(limit + afterAll):
		}
		d.letGo()
		assert.ErrorIs(t, <-failed, forkspawn.ErrBootTimeout)
		return
	}
}
