//go:build !(linux && (amd64 || arm64))

package refork

import (
	"errors"
	"runtime"
)

// Forker is not available here.
type Forker struct{}

// Prepare returns a [*Refused].
func Prepare() (*Forker, error) {
	here := runtime.GOOS + "/" + runtime.GOARCH
	return nil, &Refused{Reason: "it is not available on " + here +
		", only on linux/amd64 and linux/arm64",
		Err: errors.ErrUnsupported}
}

// Fork returns the error of Prepare.
func (*Forker) Fork(Options) (pid, pidfd int, err error) {
	_, err = Prepare()
	return 0, -1, err
}
