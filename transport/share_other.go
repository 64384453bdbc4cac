//go:build !linux

package transport

import (
	"errors"
	"net"
)

// canShare returns false: only Linux has memory with the seals.
func canShare(net.Conn) bool { return false }

func (wr *writer) sendMemory(int, int) error { return errors.ErrUnsupported }

func (wr *writer) sendRing(...int) error { return errors.ErrUnsupported }

func (wr *writer) sendEnter() bool { return false }

func (wr *writer) waitHangUp() error { return errors.ErrUnsupported }

type rights struct{ offered func(fds []int) }

func (r *rights) read(int, []byte) (int, error) { return 0, errors.ErrUnsupported }
