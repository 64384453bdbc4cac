//go:build !unix

package session

import (
	"errors"
	"os"
)

// Duplicate is not available.
func Duplicate(*os.File) (*os.File, error) { return nil, errors.ErrUnsupported }

func errnoOf(string) error { return nil }
