package handshake_test

import (
	"context"
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// roleEnv makes a re-executed test binary play one of roles instead of running the tests.
const roleEnv = "HANDSHAKE_TEST_ROLE"

// roles are what a process that a test starts can be; files with platform-bound tests add theirs.
// A role writes what the test should know to standard output.
var roles = map[string]func(context.Context) error{}

func TestMain(m *testing.M) {
	name := os.Getenv(roleEnv)
	if name == "" {
		goleak.VerifyTestMain(m)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	err := roles[name](ctx)
	cancel()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}
