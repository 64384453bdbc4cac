//go:build !windows

package transport_test

import "syscall"

// resets has the system's errors after the peer's end.
var resets = []error{syscall.EPIPE, syscall.ECONNRESET, syscall.ECONNABORTED}

// silences has the errors of a connection to a machine without an answer.
var silences = []error{syscall.ETIMEDOUT, syscall.EHOSTUNREACH, syscall.ENETUNREACH}
