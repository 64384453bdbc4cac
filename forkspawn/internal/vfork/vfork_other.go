//go:build !(linux && amd64)

package vfork

import "errors"

// Supported reports false here.
func Supported() bool { return false }

// Start fails here.
func Start(*Attr) (pid, pidfd int, err error) { return 0, -1, errors.ErrUnsupported }
