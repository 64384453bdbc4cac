//go:build !windows

package transport

import (
	"errors"
	"syscall"
)

// errnoReset is the error of a connection that was reset.
const errnoReset = syscall.ECONNRESET

// isReset tells whether a connection ended from the other side, or was cut: keep-alive and
// retransmission give ETIMEDOUT when the peer's host is gone.
func isReset(err error) bool {
	return errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.ENOTCONN) ||
		errors.Is(err, syscall.ECONNABORTED) || errors.Is(err, syscall.ETIMEDOUT)
}
