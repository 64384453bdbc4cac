//go:build !linux && !darwin

package uds

import "errors"

func peerCred(int) (Cred, error) { return Cred{}, errors.ErrUnsupported }
