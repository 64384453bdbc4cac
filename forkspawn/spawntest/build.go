package spawntest

import (
	"testing"

	"github.com/spawnwire/spawnwire/internal/gobuild"
)

// Build builds a program with go build and returns its path, for a [forkspawn.Command].
// The arguments are those of go build: flags, and a package as seen from the test's
// directory. Assignments such as CGO_ENABLED=0 come first and set the environment. If
// the program does not compile, the test ends with the compiler's output.
//
// go test removes the program with its own temporary files. Until then other tests of
// the binary get the same file for the same arguments.
func Build(t testing.TB, args ...string) string {
	t.Helper()
	exe, err := gobuild.Build(t, args...)
	if err != nil {
		t.Fatalf("spawntest: %v", err)
	}
	return exe
}
