package spawntest

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/spawnwire/spawnwire/forkspawn"
)

// home is what Main has made for this test binary.
var home struct {
	dir  string // the temporary directory
	mark Mark
}

// Main is for TestMain, as its last call. In a spawned child it runs what the child was asked for. Else it runs the
// tests and exits with their status, or, when they passed and something is left of them, with 1. It
// says on stderr what was left, and kills what is left running.
//
// The tests run with TMPDIR and XDG_RUNTIME_DIR set to a directory of their own, which is removed in the end, and
// with GORACE such that children with the race detector do not sleep for a second before they exit. The directory
// stays when the test binary does not come to its end, as on a panic or a timeout of go test.
func Main(m *testing.M) {
	forkspawn.Init()
	os.Exit(runTests(m.Run))
}

// needMain fails a test whose TestMain has not called Main.
func needMain(t testing.TB) {
	t.Helper()
	if home.dir == "" {
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
	before.kill()
	if err := os.RemoveAll(home.dir); err != nil {
		left = append(left, err.Error())
	}
	if len(left) > 0 {
		fmt.Fprintln(os.Stderr, "spawntest: left after all tests:\n"+indent(left))
		code = max(code, 1)
	}
	return code
}

// setUp prepares the environment that tests and children get, and returns what there is before the first test.
func setUp() (*Snapshot, error) {
	dir, err := makeDir()
	if err != nil {
		return nil, err
	}
	home.dir, home.mark = dir, NewMark()
	for key, value := range map[string]string{
		"TMPDIR":          dir,
		"XDG_RUNTIME_DIR": dir,
		"GORACE":          raceOptions(os.Getenv("GORACE")),
		marksEnv:          home.mark.in(os.Getenv(marksEnv)),
	} {
		os.Setenv(key, value)
	}
	s, err := takeSnapshot()
	if err != nil {
		os.RemoveAll(dir)
	}
	return s, err
}

// maxDir is how long the directory's path can be for the path of a Unix socket to fit into 103 bytes, which is the
// least that platforms allow: package transport/uds adds /spawnwire-<10 digits>/ and a name of up to 16 bytes.
const maxDir = 103 - len("/spawnwire-0123456789/") - 16

func makeDir() (string, error) {
	const name = "spawntest-*"
	place := os.TempDir()
	if len(place)+len("/spawntest-0123456789") > maxDir {
		place = "/tmp"
	}
	return os.MkdirTemp(place, name)
}

// raceOptions adds to GORACE that a process does not sleep at its end, unless it says something of that.
func raceOptions(set string) string {
	if strings.Contains(set, "atexit_sleep_ms") {
		return set
	}
	return strings.TrimSpace(set + " atexit_sleep_ms=0")
}

// indent makes a list of what may have several lines each.
func indent(list []string) string {
	var b strings.Builder
	for _, s := range list {
		b.WriteString("  " + strings.ReplaceAll(strings.TrimRight(s, "\n"), "\n", "\n    ") + "\n")
	}
	return strings.TrimRight(b.String(), "\n")
}
