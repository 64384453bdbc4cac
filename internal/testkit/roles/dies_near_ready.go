//go:build unix

package roles

import (
	"context"
	"os"
	"strconv"
	"syscall"
	"time"
)

// The ways in which dies-near-ready ends.
const (
	ByExit   = "exit"          // it exits with 9
	BySignal = "SIGKILL"       // it sends itself SIGKILL
	ByParent = "parent's kill" // the parent kills it
)

// diesNearReady sends ready and ends, at nearly the same time. Its arguments
// are the way to end, and how many nanoseconds after ready it ends; the number
// is negative for an end before ready.
func diesNearReady(ctx context.Context) error {
	_, joined, err := join(ctx)
	if err != nil {
		return err
	}
	how := os.Args[1]
	after, err := strconv.Atoi(os.Args[2])
	if err != nil {
		return err
	}
	start := time.Now().Add(200 * time.Microsecond)
	spin := func(d int) { // not a sleep, which would end later by more than the offset
		for time.Until(start) > -time.Duration(max(d, 0)) {
		}
	}
	go func() {
		spin(after)
		switch how {
		case ByExit:
			os.Exit(9)
		case BySignal:
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
		}
	}()
	spin(-after)
	joined.Ready(ctx, nil)
	forever()
	return nil
}
