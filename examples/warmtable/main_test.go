package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
)

// liar gives the same wrong answer to each question.
var liar = spawntest.Func(func(ctx context.Context, parent *forkspawn.Parent) error {
	for {
		var q question
		if err := parent.Recv(ctx, &q); err != nil {
			return err
		}
		if err := parent.Send(ctx, answer{Known: true, Meaning: "whatever"}); err != nil {
			return err
		}
	}
})

// init registers the entry for children of this test binary. The second child
// exits at its tenth question.
func init() {
	forkspawn.Register(entry, func(ctx context.Context, parent *forkspawn.Parent) error {
		table := newDictionary(megabyte)
		for n := 1; ; n++ {
			var q question
			if err := parent.Recv(ctx, &q); err != nil {
				return err
			}
			if n == 10 && parent.Spec().Name == "answer-2" {
				os.Exit(7)
			}
			var a answer
			a.Meaning, a.Known = table.lookup(q.Word)
			if err := parent.Send(ctx, a); err != nil {
				return err
			}
		}
	})
}

func TestMain(m *testing.M) { spawntest.Main(m) }

// build builds warmtable with this value of CGO_ENABLED and returns its path.
func build(t *testing.T, cgo string) string {
	t.Helper()
	exe := filepath.Join(t.TempDir(), "warmtable")
	cmd := exec.Command("go", "build", "-o", exe, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED="+cgo)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return exe
}

// start runs warmtable. The timeout only has to find hangs.
func start(t *testing.T, exe string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, exe, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		require.NoError(t, err)
	}
	t.Logf("%s\n%s%s", strings.Join(args, " "), &out, &errs)
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// cells returns the cells of the printed table, without its two head lines.
func cells(t *testing.T, stdout string) (rows [][]string) {
	t.Helper()
	_, table, ok := strings.Cut(stdout, "all answers are right\n")
	require.True(t, ok, stdout)
	for _, line := range strings.Split(strings.TrimRight(table, "\n"), "\n")[2:] {
		rows = append(rows, strings.Fields(line))
	}
	return rows
}

func needProcesses(t *testing.T) {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("no processes can be spawned on Windows")
	}
}

func forkserverIsHere() bool {
	return runtime.GOOS == "linux" && (runtime.GOARCH == "amd64" || runtime.GOARCH == "arm64")
}

func TestForked_ChildrenShareOneTable(t *testing.T) {
	if !forkserverIsHere() {
		t.Skip("children can be forked only on Linux, on amd64 and arm64")
	}
	spawntest.NoLeaks(t)
	stdout, stderr, code := start(t, build(t, "0"), "-method", "forkserver", "-children", "20")
	require.Zero(t, code)
	assert.Empty(t, stderr)
	rows := cells(t, stdout)
	require.Len(t, rows, 1)
	assert.Equal(t, []string{"forkserver", "20"}, rows[0][:2])
	for _, column := range []int{7, 10} {
		times, err := strconv.ParseFloat(rows[0][column], 64)
		require.NoError(t, err)
		assert.LessOrEqual(t, times, 1.3, "the memory of all, as a multiple of the table")
	}
}

func TestExecuted_ChildrenHaveOneTableEach(t *testing.T) {
	needProcesses(t)
	spawntest.NoLeaks(t)
	stdout, stderr, code := start(t, build(t, "0"), "-method", "exec", "-size", "20", "-children",
		"3", "-questions", "100")
	require.Zero(t, code)
	assert.Empty(t, stderr)
	rows := cells(t, stdout)
	require.Len(t, rows, 1)
	assert.Equal(t, []string{"exec", "3"}, rows[0][:2])
	if runtime.GOOS == "linux" {
		times, err := strconv.ParseFloat(rows[0][7], 64)
		require.NoError(t, err)
		assert.GreaterOrEqual(t, times, 3.0)
	}
}

func TestForked_RefusedWithoutForkserver(t *testing.T) {
	needProcesses(t)
	spawntest.NoLeaks(t)
	remedy, cgo := `use "exec"`, "0"
	if forkserverIsHere() {
		out, err := exec.Command("go", "env", "CGO_ENABLED").Output()
		require.NoError(t, err)
		if strings.TrimSpace(string(out)) != "1" {
			t.Skip("no C compiler, or cgo is off")
		}
		remedy, cgo = "build with CGO_ENABLED=0", "1"
	}
	exe := build(t, cgo)
	stdout, stderr, code := start(t, exe, "-size", "1", "-children", "2")
	assert.Equal(t, 1, code)
	assert.Empty(t, stdout)
	assert.Contains(t, stderr, `start method "forkserver"`)
	assert.Contains(t, stderr, remedy)

	stdout, stderr, code = start(t, exe, "-size", "1", "-children", "2", "-method", "forkserver",
		"-fallback")
	require.Zero(t, code)
	assert.Equal(t, 1, strings.Count(stderr, "children are executed"))
	assert.Equal(t, []string{"exec", "2"}, cells(t, stdout)[0][:2])
}

func TestAnswer_WrongIsFound(t *testing.T) {
	needProcesses(t)
	spawntest.NoLeaks(t)
	child := spawntest.Spawn(t, liar)
	for number := range 10 { // the last one is about a missing word
		err := check(t.Context(), child, number, 1000)
		assert.ErrorContains(t, err, "whatever")
	}
}

func TestAnswer_ChildDies(t *testing.T) {
	needProcesses(t)
	spawntest.NoLeaks(t)
	spawner, err := forkspawn.New(forkspawn.Config{})
	require.NoError(t, err)
	defer func() { assert.NoError(t, spawner.Close()) }()
	_, _, err = interrogate(t.Context(), spawner,
		options{size: megabyte, children: 3, questions: 1e9})
	var exit *forkspawn.ExitError
	require.ErrorAs(t, err, &exit)
	assert.ErrorContains(t, err, `child "answer-2"`)
	assert.Equal(t, 7, exit.Status.Code())
}
