//go:build !windows

package transport_test

import "syscall"

// resets has the system's errors after the peer's end. The last one is from keep-alive.
var resets = []error{syscall.EPIPE, syscall.ECONNRESET, syscall.ECONNABORTED, syscall.ETIMEDOUT}
