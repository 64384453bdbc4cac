package refork_test

import (
	"bytes"
	"context"
	"errors"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn/internal/template/refork"
	"github.com/spawnwire/spawnwire/internal/testkit"
)

// available reports whether this platform is supported.
const available = testkit.CanFork

// buildHelper builds the helper program without cgo.
func buildHelper(t *testing.T, flags ...string) string {
	t.Helper()
	args := append([]string{"CGO_ENABLED=0"}, flags...)
	return testkit.Build(t, append(args, "../../reforktest/helper")...)
}

// run runs a program and expects the output "ok". If the program takes too
// long, run kills its process group.
func run(t *testing.T, exe string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, exe, args...)
	cmd.WaitDelay = 10 * time.Second
	killGroup(cmd)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	assert.NoError(t, ctx.Err(), "it hangs")
	assert.NoError(t, err)
	assert.Equal(t, "ok\n", out.String())
	assert.Empty(t, errs.String(), "stderr")
}

// scenario runs a scenario of the helper program.
func scenario(t *testing.T, name string) {
	t.Helper()
	if !available {
		t.Skip("TestRefusal_OfThisProgram has the other platforms")
	}
	exe := buildHelper(t)
	t.Parallel()
	run(t, exe, name)
}

// The abilities of a child.

func TestRefork_ChildIsAWholeProcess(t *testing.T)             { scenario(t, "workout") }
func TestRefork_ChildrenForkFourDeep(t *testing.T)             { scenario(t, "nested") }
func TestRefork_RandomNumbersDiffer(t *testing.T)              { scenario(t, "random") }
func TestRefork_HundredsOfThreads(t *testing.T)                { scenario(t, "many-threads") }
func TestRefork_SystemCallOnAllThreadsOfTheChild(t *testing.T) { scenario(t, "all-threads") }
func TestRefork_ForksBesideStopsOfTheWorld(t *testing.T)       { scenario(t, "at-once") }
func TestRefork_FewerThreadsAndHugePages(t *testing.T)         { scenario(t, "shrink") }
func TestRefork_SiblingIsAChildOfTheParent(t *testing.T)       { scenario(t, "sibling") }
func TestRefork_FirstThreadSetsNameGroupAndDirectory(t *testing.T) {
	scenario(t, "leader")
}

func TestRefork_ThreadsDrawNumbersAllTheTime(t *testing.T) {
	scenario(t, "random-all-the-time")
}

// The descriptors of a child.

func TestRefork_ParentsDescriptorsAreDead(t *testing.T) { scenario(t, "descriptors") }
func TestRefork_FilesHaveStandInsByKind(t *testing.T)   { scenario(t, "kinds") }
func TestRefork_FinalizersOfTheParentsFilesDoNoHarm(t *testing.T) {
	scenario(t, "finalizers")
}
func TestRefork_GoroutinesAtOldSocketsSeeEOF(t *testing.T) { scenario(t, "parked") }
func TestRefork_StandardStreams(t *testing.T)              { scenario(t, "stdio") }
func TestRefork_KeptSocket(t *testing.T)                   { scenario(t, "kept-socket") }
func TestRefork_NoDescriptorLeft(t *testing.T)             { scenario(t, "descriptor-limit") }

// The kernel sends a sibling's PR_SET_PDEATHSIG when the thread ends that
// started the forking process. The thread that forked does not matter.
func TestRefork_DeathOfTheParent(t *testing.T) { scenario(t, "parent-death") }

// The parent after a failure.

func TestRefork_ChildrenThatCrash(t *testing.T) { scenario(t, "crash") }

// After a plain fork(2) a Go process has one thread, and its next collection
// waits for the others for ever. This is why the package exists.
func TestRefork_PlainForkHangs(t *testing.T) { scenario(t, "naive") }

func TestRefork_SelfTest(t *testing.T) { scenario(t, "self-test") }

// Without preemption by signals a loop without calls runs on, as in any program.
func TestRefork_SelfTestWithoutPreemption(t *testing.T) {
	if !available {
		t.Skip("not on this platform")
	}
	t.Setenv("GODEBUG", "asyncpreemptoff=1")
	run(t, buildHelper(t), "self-test")
}

// Its children would write their counters, too, and add them to those of the program.
func TestRefork_SelfTestIsNotInTheCoverage(t *testing.T) {
	if !available {
		t.Skip("not on this platform")
	}
	dir := t.TempDir()
	t.Setenv("GOCOVERDIR", dir)
	run(t, buildHelper(t, "-cover"), "self-test")
	counters, err := filepath.Glob(dir + "/covcounters.*")
	require.NoError(t, err)
	assert.Len(t, counters, 1)
}

// The data segment is at another address at each start of the program.
func TestRefork_PositionIndependentProgram(t *testing.T) {
	if !available {
		t.Skip("not on this platform")
	}
	exe := buildHelper(t, "-buildmode=pie")
	for range 3 {
		run(t, exe, "workout")
	}
	run(t, exe, "random")
}

// The scenario has requests that come whole, and all other ends of the wait.
func TestRequest_FrozenWait(t *testing.T)                  { scenario(t, "request") }
func TestRequest_RoomOnTheStack(t *testing.T)              { scenario(t, "request-on-stack") }
func TestRequest_BlockedSignalDoesNotDisarm(t *testing.T)  { scenario(t, "request-blocked-signal") }
func TestRequest_WithoutAllOfItsDescriptors(t *testing.T)  { scenario(t, "request-truncated") }
func TestRequest_PeerEndsDuringTheFrozenWait(t *testing.T) { scenario(t, "request-peer-dies") }

func TestRefusal_LeavesTheProcessHealthy(t *testing.T) {
	if !available {
		t.Skip("TestRefusal_OfThisProgram has the other platforms")
	}
	for _, name := range []string{
		"cpu-profile", "trace", "timer", "blocked-signal", "foreign-handler", "foreign-thread",
		"leader-ended", "bad-files", "thread-limit", "starting-thread",
	} {
		t.Run(name, func(t *testing.T) { scenario(t, name) })
	}
}

// The test program is linked with cgo, unless it was built with CGO_ENABLED=0.
func TestRefusal_OfThisProgram(t *testing.T) {
	f, err := refork.Prepare()
	if available && !cgoEnabled {
		require.NoError(t, err)
		require.NotNil(t, f)
		return
	}
	var refused *refork.Refused
	require.ErrorAs(t, err, &refused)
	assert.Nil(t, f)
	if available {
		assert.Contains(t, refused.Remedy, "build with CGO_ENABLED=0")
	} else {
		assert.ErrorIs(t, err, errors.ErrUnsupported)
		assert.Contains(t, err.Error(), runtime.GOOS+"/"+runtime.GOARCH)
		assert.Contains(t, err.Error(), "linux/amd64 and linux/arm64")
	}
}
