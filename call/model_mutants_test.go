package call_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/internal/testkit"
)

// wakers has the functions to make another goroutine go on.
var wakers = map[string]bool{
	"signal": true, "signalAll": true, "signalFirst": true, "signalIfIdle": true, "notify": true,
	"wakeFirst": true, "offerRole": true, "leaveRole": true, "startWorker": true,
	"startTicking": true, "Wake": true,
}

// harmless has wake-ups, each with the reason why TestModel_NoCallHangs does not miss it.
var harmless = map[string]string{
	"die: x.signalAll() (2)":                   "the ends of their contexts wake the handlers",
	"die: c.writing.done.signalAll(c)":         "the end of the write wakes them",
	"Drain: c.slots.signalAll(c)":              "the connection ends after a drain",
	"waitLocked: c.offerRole()":                tickReads,
	"waitLocked: c.offerRole() (2)":            tickReads,
	"dispatch: c.slots.signalAll(c) (2)":       "the connection ends after a go away",
	"handle: x.notify()":                       "the value of started wakes the caller",
	"exited: c.leaveRole()":                    tickReads,
	"nextMessage: c.offerRole()":               tickReads,
	"nextMessage: c.startTicking()":            "offerRole wakes a reader before",
	"leaveRole: c.offerRole()":                 tickReads,
	"offerRole: c.reading.waiting.wakeFirst()": tickReads,
	"receiveValue: x.c.signal(&in.w)":          "TestUnary_StreamOfRepliesIsAnError finds it",
	"takeOutput: wr.room.signalAll(c)":         "TestStream_SendersWaitForTheQueue finds it",
}

const tickReads = "the tick has a worker read a millisecond later"

var mutants = flag.Bool("mutants", false, "run TestModel_FindsRemovedWakeUps, which takes minutes")

// TestModel_FindsRemovedWakeUps tests TestModel_NoCallHangs: it must find lost wake-ups.
// It removes each call of a waker from the package, one at a time, and runs the model:
//
//	go test -v -count=1 -timeout 60m -run TestModel_FindsRemovedWakeUps ./call -mutants
func TestModel_FindsRemovedWakeUps(t *testing.T) {
	if !*mutants {
		t.Skip("it takes minutes: run it with -mutants")
	}
	program, wakeUps := buildMutants(t)
	for i, name := range wakeUps {
		cmd := exec.Command(program, "-test.run", "^TestModel_NoCallHangs$", "-test.timeout", "5m",
			"-rounds", "2000")
		cmd.Env = append(os.Environ(), testkit.LongEnv+"=0", fmt.Sprintf("%s=%d", mutantEnv, i+1))
		out, err := cmd.CombinedOutput()
		found := ""
		for line := range strings.Lines(string(out)) {
			if strings.Contains(line, "hangs") || strings.Contains(line, "deadlock") ||
				strings.Contains(line, "timed out") {
				found = strings.TrimSpace(line)
				break
			}
		}
		t.Logf("%-60s %v %s", name, err, found)
		if err == nil {
			assert.Contains(t, harmless, name)
		}
	}
	assert.Greater(t, len(wakeUps), 30)
	for name := range harmless {
		assert.Contains(t, wakeUps, name, "it is gone")
	}
}

// mutantEnv has the number of the wake-up to remove, from 1.
const mutantEnv = "SPAWNWIRE_MUTANT"

// buildMutants builds the tests of this package with switches for the wake-ups, and
// returns the names of these.
func buildMutants(t *testing.T) (program string, names []string) {
	dir := t.TempDir()
	replaced := map[string]string{}
	add := func(file, source string) {
		changed := filepath.Join(dir, file)
		require.NoError(t, os.WriteFile(changed, []byte(source), 0o600))
		here, err := filepath.Abs(file)
		require.NoError(t, err)
		replaced[here] = changed
	}
	files, err := filepath.Glob("*.go")
	require.NoError(t, err)
	for _, file := range files {
		if !strings.HasSuffix(file, "_test.go") {
			add(file, addSwitches(t, file, &names))
		}
	}
	add("mutant.go", `package call

import "os"

var removed = os.Getenv("`+mutantEnv+`")
`)
	overlay, err := json.Marshal(map[string]any{"Replace": replaced})
	require.NoError(t, err)
	config := filepath.Join(dir, "overlay.json")
	require.NoError(t, os.WriteFile(config, overlay, 0o600))
	program = filepath.Join(dir, "call.test")
	out, err := exec.Command("go", "test", "-c", "-overlay", config, "-o", program, ".").
		CombinedOutput()
	require.NoError(t, err, "%s", out)
	return program, names
}

// addSwitches returns the source of a file with a switch for each wake-up. It adds
// their names.
func addSwitches(t *testing.T, file string, names *[]string) string {
	source := testkit.ReadFile(t, file)
	fset := token.NewFileSet()
	parsed, err := parser.ParseFile(fset, file, source, 0)
	require.NoError(t, err)
	var b strings.Builder
	done := 0
	for _, decl := range parsed.Decls {
		f, ok := decl.(*ast.FuncDecl)
		if !ok {
			continue
		}
		count := map[string]int{}
		ast.Inspect(f, func(node ast.Node) bool {
			statement, ok := node.(*ast.ExprStmt)
			if !ok {
				return true
			}
			if c, ok := statement.X.(*ast.CallExpr); !ok || !wakers[nameOf(c.Fun)] {
				return true
			}
			from, to := fset.Position(node.Pos()).Offset, fset.Position(node.End()).Offset
			wakeUp := source[from:to]
			name := f.Name.Name + ": " + wakeUp
			if count[wakeUp]++; count[wakeUp] > 1 {
				name += fmt.Sprintf(" (%d)", count[wakeUp])
			}
			*names = append(*names, name)
			fmt.Fprintf(&b, "%sif removed != \"%d\" { %s }", source[done:from], len(*names), wakeUp)
			done = to
			return true
		})
	}
	return b.String() + source[done:]
}

// nameOf returns the last part of a function's name.
func nameOf(f ast.Expr) string {
	switch f := f.(type) {
	case *ast.SelectorExpr:
		return f.Sel.Name
	case *ast.Ident:
		return f.Name
	}
	return ""
}
