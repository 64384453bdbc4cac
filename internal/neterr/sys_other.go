//go:build !windows

package neterr

import (
	"errors"
	"syscall"
)

// Reset reports whether a call failed with err because of a reset.
func Reset(err error) bool { return errors.Is(err, syscall.ECONNRESET) }

func wasCut(err error) bool {
	return Reset(err) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ENOTCONN) ||
		errors.Is(err, syscall.ECONNABORTED) || errors.Is(err, syscall.ETIMEDOUT)
}
