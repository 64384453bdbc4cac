//go:build !windows

package neterr

import (
	"errors"
	"syscall"
)

// Reset reports whether a call failed with err because of a reset.
func Reset(err error) bool { return errors.Is(err, syscall.ECONNRESET) }

// Silent reports whether a call failed with err because the other machine does not answer.
// The kernel gives up after some probes or retransmissions. It then reports ETIMEDOUT, or
// that there is no way to the machine. See tcp(7), and "Error handling" in ip(7).
func Silent(err error) bool {
	return errors.Is(err, syscall.ETIMEDOUT) || errors.Is(err, syscall.EHOSTUNREACH) ||
		errors.Is(err, syscall.ENETUNREACH)
}

func wasCut(err error) bool {
	return Reset(err) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ENOTCONN) ||
		errors.Is(err, syscall.ECONNABORTED)
}
