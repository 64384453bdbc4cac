package transport

import (
	"errors"
	"syscall"

	"golang.org/x/sys/windows"
)

func isReset(err error) bool {
	return errors.Is(err, windows.WSAECONNRESET) || errors.Is(err, windows.WSAECONNABORTED) ||
		errors.Is(err, windows.WSAETIMEDOUT) || errors.Is(err, syscall.EPIPE)
}
