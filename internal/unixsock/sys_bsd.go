//go:build unix && !linux && !darwin

package unixsock

import "errors"

func peerCred(int) (Cred, error) { return Cred{}, errors.ErrUnsupported }

// heldPeer is empty, because nothing is known of the other process.
type heldPeer struct{}

func holdPeer(int) (heldPeer, error) { return heldPeer{}, nil }
func (heldPeer) release()            {}
func (heldPeer) exists() bool        { return true }

func parentOf(int) (int, error) { return 0, errors.ErrUnsupported }
