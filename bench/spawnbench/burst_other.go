//go:build !linux

package main

import (
	"errors"
	"time"
)

func familyCPU() (time.Duration, error) { return 0, errors.ErrUnsupported }

type cFork struct{}

func newCFork() (*cFork, error) { return nil, errors.ErrUnsupported }

func (*cFork) close() {}

func (*cFork) burst(int) (up, cpu time.Duration, err error) { return 0, 0, errors.ErrUnsupported }
