package testkit

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"testing"
)

// RoleEnv is the environment variable with the role of a child process. The
// test binary plays it instead of running tests.
const RoleEnv = "SPAWNWIRE_TEST_ROLE"

// Role is the program of a child process of a test. The process exits with 0
// when the role returns nil. Otherwise it writes the error to stderr and exits
// with 1. The context ends after Patience.
type Role func(ctx context.Context) error

// PlayRole plays one of the roles and exits, if RoleCommand started this
// process. Otherwise it returns at once. It is the first call in TestMain.
func PlayRole(roles map[string]Role) {
	name := os.Getenv(RoleEnv)
	if name == "" {
		return
	}
	role, ok := roles[name]
	if !ok {
		fmt.Fprintf(os.Stderr, "no such role: %s\n", name)
		os.Exit(1)
	}
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	err := role(ctx)
	cancel()
	if err != nil {
		fmt.Fprintf(os.Stderr, "role %s: %v\n", name, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// RoleCommand returns a command that starts the test binary in a role. With
// the race detector, the child exits without the usual pause of a second.
func RoleCommand(t testing.TB, name string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(Self(t), args...)
	cmd.Env = slices.Concat(os.Environ(),
		[]string{RoleEnv + "=" + name, "GORACE=atexit_sleep_ms=0"})
	return cmd
}
