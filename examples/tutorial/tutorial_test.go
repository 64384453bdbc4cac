// Package tutorial tests the programs of docs/tutorial.md. The text and the
// programs cannot differ, because each block of Go in the text is part of one of
// them.
package tutorial

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestTutorial_CodeIsThatOfThePrograms(t *testing.T) {
	text, err := os.ReadFile("../../docs/tutorial.md")
	require.NoError(t, err)
	files, err := filepath.Glob("*/*.go")
	require.NoError(t, err)
	var programs []string
	for _, file := range files {
		program, err := os.ReadFile(file)
		require.NoError(t, err)
		programs = append(programs, string(program))
	}
	all := strings.Join(programs, "\n")
	blocks := regexp.MustCompile("(?ms)^```go\n(.*?)^```").FindAllStringSubmatch(string(text), -1)
	require.Len(t, blocks, 5)
	for _, block := range blocks {
		assert.Contains(t, all, block[1])
	}
}

func TestTutorial_ChildAnswers(t *testing.T) {
	assert.Equal(t, "168 primes below 1000\n", output(t, build(t, "answer")))
}

func TestTutorial_PoolAnswersAll(t *testing.T) {
	lines := strings.Split(strings.TrimSpace(output(t, build(t, "pool"))), "\n")
	assert.Len(t, lines, 20)
	assert.Contains(t, lines, "168 primes below 1000")
	assert.Contains(t, lines, "2262 primes below 20000")
}

func TestTutorial_KilledWorkerIsReplaced(t *testing.T) {
	out := output(t, build(t, "replace"))
	assert.Regexp(t, `(?m)^replace a worker: forkspawn: child "worker-\d" \(pid \d+\) ended: `+
		`signal: killed$`, out)
	assert.Equal(t, 20, strings.Count(out, "primes below"), "no job is lost")
}

func TestTutorial_CtrlCEndsInOrder(t *testing.T) {
	cmd := exec.Command(build(t, "interrupt"))
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	hung := time.AfterFunc(time.Minute, func() { cmd.Process.Kill() })
	defer hung.Stop()
	line := make([]byte, 1)
	_, err = stdout.Read(line) // a worker has answered
	require.NoError(t, err)
	require.NoError(t, cmd.Process.Signal(syscall.SIGINT))
	var rest bytes.Buffer
	_, err = rest.ReadFrom(stdout)
	require.NoError(t, err)
	assert.NoError(t, cmd.Wait())
	assert.True(t, strings.HasSuffix(rest.String(),
		"ended in order: forkspawn: signal: interrupt\n"), rest.String())
}

// build builds the program of one step and returns its path.
func build(t *testing.T, step string) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), step)
	out, err := exec.Command("go", "build", "-o", program, "./"+step).CombinedOutput()
	require.NoError(t, err, "%s", out)
	return program
}

// output returns what the program prints.
func output(t *testing.T, program string) string {
	t.Helper()
	out, err := exec.Command(program).CombinedOutput()
	require.NoError(t, err, "%s", out)
	return string(out)
}
