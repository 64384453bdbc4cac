package refork_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn/internal/refork"
)

// available tells whether this platform can do it at all, in a program that is built for it.
const available = runtime.GOOS == "linux" && runtime.GOARCH == "amd64"

// helperDir is of the helper program, which is built once.
var helperDir string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "refork-")
	if err != nil {
		panic(err)
	}
	helperDir = dir
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// build builds a program of this module without cgo, whatever the test is built with.
func build(name, pkg string, flags ...string) (string, error) {
	exe := filepath.Join(helperDir, name)
	cmd := exec.Command("go", append(append([]string{"build", "-o", exe}, flags...), pkg)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", errors.New(string(out) + err.Error())
	}
	return exe, nil
}

var helper = sync.OnceValues(func() (string, error) { return build("helper", "./helper") })

// run runs a program, which is killed with all that it started when it takes too long, and expects that it says ok.
func run(t *testing.T, exe string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
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

// scenario runs one of the helper's.
func scenario(t *testing.T, name string) {
	t.Helper()
	if !available {
		t.Skip("linux/amd64 only; TestRefusal has the others")
	}
	exe, err := helper()
	require.NoError(t, err)
	t.Parallel()
	run(t, exe, name)
}

// What a child can do.

func TestChildIsAWholeProcess(t *testing.T)             { scenario(t, "workout") }
func TestChildrenForkInTheirTurnFourDeep(t *testing.T)  { scenario(t, "nested") }
func TestRandomNumbersDiffer(t *testing.T)              { scenario(t, "random") }
func TestHundredsOfThreads(t *testing.T)                { scenario(t, "many-threads") }
func TestSystemCallOnAllThreadsOfTheChild(t *testing.T) { scenario(t, "all-threads") }
func TestWhatConcernsAllThreadsAtOnce(t *testing.T)     { scenario(t, "at-once") }
func TestFewerThreadsAndHugePages(t *testing.T)         { scenario(t, "shrink") }
func TestChildOfTheParentsParent(t *testing.T)          { scenario(t, "sibling") }
func TestFirstThreadsNameGroupAndDirectory(t *testing.T) {
	scenario(t, "leader")
}

// What it has, and what it has not.

func TestParentsDescriptorsAreDeadInTheChild(t *testing.T)       { scenario(t, "descriptors") }
func TestFinalizersOfTheParentsFilesDoNoHarm(t *testing.T)       { scenario(t, "finalizers") }
func TestGoroutinesWaitingForOldSocketsSeeTheirEnd(t *testing.T) { scenario(t, "parked") }
func TestStandardStreams(t *testing.T)                           { scenario(t, "stdio") }
func TestKeptSocket(t *testing.T)                                { scenario(t, "kept-socket") }
func TestNoDescriptorLeft(t *testing.T)                          { scenario(t, "descriptor-limit") }

// TestDeathOfTheParent pins what the kernel does for a sibling with PR_SET_PDEATHSIG: the thread that counts
// is the one that started the forking process, not the one that forked.
func TestDeathOfTheParent(t *testing.T) { scenario(t, "parent-death") }

// TestRequestIsWaitedForWithAllThreadsStopped has requests that come whole, and all else that ends the wait.
func TestRequestIsWaitedForWithAllThreadsStopped(t *testing.T) { scenario(t, "request") }
func TestRequestIsReceivedWhereverItsRoomIs(t *testing.T)      { scenario(t, "request-on-stack") }
func TestSignalThatAllThreadsBlockEndsNoWait(t *testing.T)     { scenario(t, "request-blocked-signal") }
func TestRequestWithoutAllOfItsDescriptors(t *testing.T)       { scenario(t, "request-truncated") }
func TestPeerThatEndsAsAllThreadsAreStopped(t *testing.T)      { scenario(t, "request-peer-dies") }

// The parent stays well.

func TestChildrenThatCrash(t *testing.T) { scenario(t, "crash") }

func TestRefusedAndHealthyAfterwards(t *testing.T) {
	if !available {
		t.Skip("linux/amd64 only; TestRefusal has the others")
	}
	for _, name := range []string{
		"cpu-profile", "trace", "timer", "blocked-signal", "foreign-handler", "foreign-thread", "leader-ended", "bad-files", "thread-limit",
	} {
		t.Run(name, func(t *testing.T) { scenario(t, name) })
	}
}

// TestPlainForkCannotWork shows why this package is there: a Go process that is forked as by fork(2) has one thread, and its next
// collection waits for the others for ever.
func TestPlainForkCannotWork(t *testing.T) { scenario(t, "naive") }

func TestSelfTest(t *testing.T) { scenario(t, "self-test") }

// TestRefusal is about the program that runs the tests: linked with cgo, unless it was built with CGO_ENABLED=0.
func TestRefusal(t *testing.T) {
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
		assert.Contains(t, err.Error(), "linux/amd64")
	}
}

// TestPositionIndependentProgram has the data segment elsewhere at each start.
func TestPositionIndependentProgram(t *testing.T) {
	if !available {
		t.Skip("linux/amd64 only")
	}
	exe, err := build("helper-pie", "./helper", "-buildmode=pie")
	if err != nil && strings.Contains(err.Error(), "requires external") {
		t.Skip(err)
	}
	require.NoError(t, err)
	for range 3 {
		run(t, exe, "workout")
	}
	run(t, exe, "random")
}
