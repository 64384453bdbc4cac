//go:build !linux

package supervisor

import (
	"fmt"
	"os"
	"runtime"
)

// Run returns an error: the other machine must run Linux.
func Run(string) int {
	fmt.Fprintf(os.Stderr, "forkspawn: a launcher cannot start children on %s\n", runtime.GOOS)
	return 1
}
