//go:build !linux

package slab

import (
	"errors"
	"os"
	"syscall"
)

// create is not there: only Linux has memory with the seals.
func (o *Out) create(func(data, counter int) error) (data, counter []byte, err error) {
	return nil, nil, errors.ErrUnsupported
}

func open(int, int) (data, counter []byte, err error) { return nil, nil, errors.ErrUnsupported }

func populate([]byte, bool) error { return errors.ErrUnsupported }

func unmap(...[]byte) {}

func closeAll([]int) {}

func (o *RingOut) create(func(fds ...int) error) error { return errors.ErrUnsupported }

func (in *RingIn) mapFiles([]int) error { return errors.ErrUnsupported }

func newBell(int) (*os.File, syscall.RawConn, error) { return nil, nil, errors.ErrUnsupported }

func ring(int) error { return errors.ErrUnsupported }
