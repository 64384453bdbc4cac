//go:build amd64 || arm64

package refork_test

import (
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/internal/testkit"
)

// frozenRoots run while threads are frozen: in the parent, and in a new child.
var frozenRoots = []string{"freezeAndFork", "frozenSection", "build"}

// harmless functions neither allocate nor wait for a lock. Those of the panics and of
// morestack are never called.
var harmless = []string{
	"runtime.ThreadCreateProfile", // with nil it counts the threads
	"runtime.memmove", "runtime.morestack_noctxt", "runtime.panicBounds", "runtime.panicshift",
	"runtime.checkptrAlignment", "runtime.checkptrArithmetic", // with -d=checkptr
	"syscall.RawSyscall", "syscall.RawSyscall6",
}

// Whether code allocates is the decision of the compiler, so the test looks at its result,
// also of the other processors.
func TestFrozen_CodeCallsNothingUnknown(t *testing.T) {
	for _, arch := range []string{"amd64", "arm64"} {
		t.Run(arch, func(t *testing.T) {
			t.Run("as usual", func(t *testing.T) {
				assert.Empty(t, unknownCalls(t, buildHelper(t, "GOARCH="+arch)))
			})
			t.Run("all pointers are checked", func(t *testing.T) {
				frozenCodeOf(t, arch, "-gcflags=all=-d=checkptr=2")
			})
			t.Run("nothing is inlined", func(t *testing.T) {
				frozenCodeOf(t, arch, "-gcflags=all=-l -N")
			})
		})
	}
}

// frozenCodeOf looks at the code of a build with a flag, and runs it if it can.
func frozenCodeOf(t *testing.T, arch, flag string) {
	t.Helper()
	testkit.Long(t)
	exe := buildHelper(t, "GOARCH="+arch, flag)
	assert.Empty(t, unknownCalls(t, exe))
	if arch == runtime.GOARCH {
		run(t, exe, "workout")
	}
}

var (
	textLine = regexp.MustCompile(`^TEXT (\S+)\(SB\)`)
	callLine = regexp.MustCompile(`\s(?:CALL|JMP)\s+([^\s(]+)\(SB\)`)
)

// unknownCalls returns the calls of the frozen code, as "function: callee", that are
// neither harmless nor functions of the package.
func unknownCalls(t *testing.T, exe string) (unknown []string) {
	t.Helper()
	const prefix = "github.com/spawnwire/spawnwire/forkspawn/internal/template/refork."
	code, err := exec.CommandContext(testkit.Context(t), "go", "tool", "objdump", "-s",
		`template/refork\.`, exe).Output()
	require.NoError(t, err)
	calls := make(map[string][]string)
	function := ""
	for line := range strings.Lines(string(code)) {
		if m := textLine.FindStringSubmatch(line); m != nil {
			function = strings.TrimSuffix(strings.TrimPrefix(m[1], prefix), ".abi0")
		} else if m := callLine.FindStringSubmatch(line); m != nil {
			calls[function] = append(calls[function], strings.TrimSuffix(m[1], ".abi0"))
		}
	}
	todo := slices.Clone(frozenRoots)
	seen := make(map[string]bool)
	for len(todo) > 0 {
		f := todo[0]
		todo = todo[1:]
		if seen[f] {
			continue
		}
		seen[f] = true
		for _, callee := range calls[f] {
			if ours, ok := strings.CutPrefix(callee, prefix); ok {
				todo = append(todo, ours)
			} else if !slices.Contains(harmless, callee) {
				unknown = append(unknown, f+": "+callee)
			}
		}
	}
	assert.Greater(t, len(seen), 30, "functions that are reached")
	assert.Contains(t, seen, "reseed", "is reached from frozenSection through rebuild")
	return unknown
}
