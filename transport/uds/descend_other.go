//go:build !linux && !darwin

package uds

import "errors"

var errEnded = errors.ErrUnsupported

// heldPeer is nothing here; peerCred fails before it is asked for.
type heldPeer struct{}

func holdPeer(int) (heldPeer, error) { return heldPeer{}, errors.ErrUnsupported }
func (heldPeer) release()            {}
func (heldPeer) there() bool         { return false }

func descends(int, int) error { return errors.ErrUnsupported }
