package handshake_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// roleEnv is the environment variable with the role of a re-executed test binary.
// If it is set, the binary plays the role instead of running the tests.
const roleEnv = "HANDSHAKE_TEST_ROLE"

// roles are the functions of processes started by tests. Files with tests for one
// platform add their own. A role writes its result to standard output.
var roles = map[string]func(context.Context) error{}

func TestMain(m *testing.M) {
	name := os.Getenv(roleEnv)
	if name == "" {
		flag.Parse()
		flag.Set("test.parallel", "16") // parallel tests wait, most of the time
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
