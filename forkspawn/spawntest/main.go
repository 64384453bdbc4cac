package spawntest

import (
	"crypto/rand"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/spawnwire/spawnwire/forkspawn"
)

// marksEnv is the environment variable with the marks of a process, separated
// by commas. A test binary inherits a mark if another one has started it.
const marksEnv = "SPAWNWIRE_TEST_MARKS"

// Main sets both before the tests.
var (
	tempDir string // the temporary directory of this test binary
	mark    string // in the environment of this test binary and its descendants
)

// Main runs the tests and exits with their status. TestMain calls it last. In a
// spawned child Main runs the child's entry instead.
//
// After the tests, Main looks for leaks as [NoLeaks] does. It reports them on
// stderr and kills the processes among them. Then it exits with status 1, even
// if all tests have passed.
//
// Main sets TMPDIR and XDG_RUNTIME_DIR to a new directory, and removes it after
// the tests. The directory stays if the test binary does not get that far, as
// after a panic or the timeout of go test. Main also adds atexit_sleep_ms=0 to
// GORACE, because children with the race detector sleep for a second before
// they exit otherwise.
func Main(m *testing.M) {
	forkspawn.Init()
	if os.Getenv(floorEnv) != "" {
		os.Stdout.Write([]byte{'.'})
		os.Exit(0)
	}
	os.Exit(runTests(m.Run))
}

// needMain fails the test if TestMain has not called Main.
func needMain(t testing.TB) {
	t.Helper()
	if tempDir == "" {
		t.Fatalf("spawntest: TestMain must call spawntest.Main")
	}
}

func runTests(run func() int) int {
	before, err := setUp()
	if err != nil {
		fmt.Fprintln(os.Stderr, "spawntest:", err)
		return 1
	}
	code := run()
	left := before.Leaks()
	appeared, _ := before.appeared()
	for _, t := range appeared {
		if p, ok := t.(process); ok {
			p.kill()
		}
	}
	if err := os.RemoveAll(tempDir); err != nil {
		left = append(left, err.Error())
	}
	if len(left) > 0 {
		fmt.Fprintln(os.Stderr, "spawntest: left after all tests:\n"+indent(left))
		code = max(code, 1)
	}
	return code
}

// setUp prepares the environment of the tests and their children, and returns
// a snapshot from before the first test.
func setUp() (before *Snapshot, err error) {
	if tempDir, err = makeDir(); err != nil {
		return nil, err
	}
	mark = rand.Text()
	os.Setenv("TMPDIR", tempDir)
	os.Setenv("XDG_RUNTIME_DIR", tempDir)
	os.Setenv("GORACE", raceOptions(os.Getenv("GORACE")))
	os.Setenv(marksEnv, strings.TrimPrefix(os.Getenv(marksEnv)+","+mark, ","))
	if before, err = takeSnapshot(); err != nil {
		os.RemoveAll(tempDir)
	}
	return before, err
}

// maxDir is the longest path of the directory in bytes. Package transport/uds
// adds /spawnwire-<10 digits>/ and a name of up to 16 bytes, and the path of a
// Unix socket has at most 103 bytes on some platforms.
const maxDir = 103 - len("/spawnwire-0123456789/") - 16

func makeDir() (string, error) {
	parent := os.TempDir()
	if len(parent)+len("/spawntest-0123456789") > maxDir {
		parent = "/tmp"
	}
	return os.MkdirTemp(parent, "spawntest-*")
}

// raceOptions adds to the value of GORACE that a process does not sleep at its
// end, unless the value already sets that option.
func raceOptions(set string) string {
	if strings.Contains(set, "atexit_sleep_ms") {
		return set
	}
	return strings.TrimSpace(set + " atexit_sleep_ms=0")
}

// indent formats a list whose elements may have several lines each.
func indent(list []string) string {
	var b strings.Builder
	for _, s := range list {
		b.WriteString("  " + strings.ReplaceAll(strings.TrimRight(s, "\n"), "\n", "\n    ") + "\n")
	}
	return strings.TrimRight(b.String(), "\n")
}
