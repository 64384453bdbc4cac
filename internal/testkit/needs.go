package testkit

import (
	"os"
	"runtime"
	"testing"
)

// CanFork reports whether the platform can fork a child without exec. The
// program has to be built without cgo, too.
const CanFork = runtime.GOOS == "linux" && (runtime.GOARCH == "amd64" || runtime.GOARCH == "arm64")

// NeedRoot skips the test unless it runs as root.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can do this")
	}
}

// NeedLinux skips the test elsewhere than on Linux.
func NeedLinux(t testing.TB) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("Linux only")
	}
}

// NeedSpawn skips the test on Windows, where forkspawn starts no processes.
func NeedSpawn(t testing.TB) {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("no processes can be spawned on Windows")
	}
}
