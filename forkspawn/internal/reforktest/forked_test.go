//go:build linux && (amd64 || arm64) && cgo && !race

// Package reforktest_test runs tests of forkspawn with forked children. They need a build
// without cgo, and a package of their own runs beside the others.
package reforktest_test

import (
	"context"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/spawnwire/spawnwire/internal/testkit"
)

// The tests of TestForked, without and with SPAWNWIRE_LONG=1: those of forked children, and
// some that are written for executed ones.
const (
	overBothMethods = "^Test(Forked_|Forkserver_|Template_(WarmUp|UnknownWarmUp|IsReplacedAfterItsEnd|EndsWith)|" +
		"Death_Recv|Stdio_IsAll|Spares_DeadOne|Release_Spares|Files_Reach|Conn_OpenAndAccept)"
	overBothMethodsLong = overBothMethods + "|^Test(Template_|FaultTable$|" +
		"Stop_BusyChild|Group_OneFailure|Program_|Files_|Conn_|Usage_|Release_Kernel|" +
		"SysAttr_SetsTheChild|Spawn_(ChildAnswers|ChildReceives|AnotherProgram|ManyOfOneName)|Secret_IsNotInTheCommandLine|" +
		"Stop_(Kill|TakesTheWhole|ContinuesAStopped)|Death_(IsReported|StolenStatus)|Stdio_FullPipes|" +
		"Orphan_(GroupOf|EndsAfter)|Close_EndsChildren|Subreaper_(Ends|Takes)|" +
		"Scarcity_(DescriptorsInSpawn|MassStart|FirstProcess)|HungFileSystem_)"
)

func TestForked(t *testing.T) {
	tests := overBothMethods
	if testkit.IsLong() {
		tests = overBothMethodsLong
	}
	exe := testkit.BuildTests(t, "../..", "CGO_ENABLED=0")
	timeout := 20 * time.Minute
	if deadline, ok := t.Deadline(); ok {
		timeout = time.Until(deadline) - 20*time.Second
	}
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, exe,
		"-test.timeout="+(timeout-10*time.Second).String(), "-test.run="+tests)
	cmd.Dir = "../.."
	cmd.Env = append(os.Environ(), testkit.MethodEnv+"=forkserver")
	out, err := cmd.CombinedOutput()
	assert.NoError(t, err, "%s", out)
}
