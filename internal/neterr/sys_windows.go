package neterr

import (
	"errors"
	"syscall"

	"golang.org/x/sys/windows"
)

// Reset reports whether a call failed with err because of a reset.
func Reset(err error) bool { return errors.Is(err, windows.WSAECONNRESET) }

// Silent reports whether a call failed with err because the other machine does not answer.
func Silent(err error) bool {
	return errors.Is(err, windows.WSAETIMEDOUT) || errors.Is(err, windows.WSAEHOSTUNREACH) ||
		errors.Is(err, windows.WSAENETUNREACH)
}

func wasCut(err error) bool {
	return Reset(err) || errors.Is(err, windows.WSAECONNABORTED) || errors.Is(err, syscall.EPIPE)
}
