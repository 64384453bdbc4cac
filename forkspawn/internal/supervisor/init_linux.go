package supervisor

import (
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"github.com/spawnwire/spawnwire/forkspawn/internal/reaper"
)

// reapOthers reaps all children of this process but one. Process 1 of a container
// inherits the processes whose parents have ended. The caller calls stop in the end.
func reapOthers(child int) (stop func()) {
	died := make(chan os.Signal, 1)
	signal.Notify(died, unix.SIGCHLD)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range died {
			pids, _ := reaper.Children() // without /proc they remain zombies
			for _, pid := range pids {
				if pid != child {
					unix.Wait4(pid, nil, unix.WNOHANG, nil)
				}
			}
		}
	}()
	return func() {
		signal.Stop(died)
		close(died)
		<-done
	}
}
