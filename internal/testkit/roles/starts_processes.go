//go:build unix

package roles

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/spawnwire/spawnwire/forkspawn"
)

// startsProcesses starts short processes, two at a time, and prints a line
// after every twenty, until it is interrupted.
func startsProcesses(context.Context) error {
	var starts atomic.Int64
	var workers sync.WaitGroup
	for range 2 {
		workers.Go(func() {
			for {
				p, err := forkspawn.StartProcess(forkspawn.ProcessAttr{
					Command: forkspawn.Command{Path: "/bin/true"}, OwnGroup: true,
				})
				if err != nil {
					fmt.Println("start failed:", err)
					return
				}
				p.Wait()
				if n := starts.Add(1); n%20 == 0 {
					fmt.Println("started", n)
				}
			}
		})
	}
	workers.Wait()
	return nil
}
