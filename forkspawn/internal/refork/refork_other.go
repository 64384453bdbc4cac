//go:build !(linux && amd64)

package refork

import (
	"errors"
	"runtime"
)

// Forker has nothing here: Prepare does not give one.
type Forker struct{}

// Prepare fails here, with a *Refused.
func Prepare() (*Forker, error) {
	here := runtime.GOOS + "/" + runtime.GOARCH
	return nil, &Refused{Reason: "it is not available on " + here + ", only on linux/amd64", Err: errors.ErrUnsupported}
}

// Fork fails here.
func (*Forker) Fork(Options) (pid, pidfd int, err error) {
	_, err = Prepare()
	return 0, -1, err
}
