//go:build !(linux && (amd64 || arm64)) || portable

package vfork

import (
	"context"
	"errors"
)

// Supported reports false here.
func Supported() bool { return false }

// Start fails here.
func Start(context.Context, *Attr) (pid, pidfd int, err error) {
	return 0, -1, errors.ErrUnsupported
}
