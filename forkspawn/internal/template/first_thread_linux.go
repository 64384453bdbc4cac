//go:build amd64 || arm64

package template

import (
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// The fork makes the calling thread the first thread of the child. A goroutine that
// ends while it is locked ends its thread. A process without its first thread looks
// dead: it is a zombie, and /proc/self is empty. Go's runtime never ends the first
// thread of a process (mexit in runtime/proc.go). So a template forks on its own
// first thread. A goroutine stays there if an init function has locked it.
func init() {
	if _, ok := os.LookupEnv(Env); ok {
		runtime.LockOSThread()
	}
}

// onFirstThread reports whether the goroutine runs on the first thread.
func onFirstThread() bool { return unix.Gettid() == os.Getpid() }
