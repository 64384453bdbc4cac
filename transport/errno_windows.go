package transport

import (
	"errors"
	"syscall"

	"golang.org/x/sys/windows"
)

// errnoReset is the error of a connection that was reset.
const errnoReset = windows.WSAECONNRESET

func isReset(err error) bool {
	return errors.Is(err, windows.WSAECONNRESET) || errors.Is(err, windows.WSAECONNABORTED) ||
		errors.Is(err, windows.WSAETIMEDOUT) || errors.Is(err, syscall.EPIPE)
}
