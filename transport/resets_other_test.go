//go:build !windows

package transport_test

import "syscall"

// resets are the system's words for a peer that is gone. The last one is from keep-alive.
var resets = []error{syscall.EPIPE, syscall.ECONNRESET, syscall.ECONNABORTED, syscall.ETIMEDOUT}
