package forkspawn

import "time"

// SetKillBound shortens the wait for a process that got SIGKILL, until the returned function is called.
func SetKillBound(d time.Duration) (restore func()) {
	old := killBound
	killBound = d
	return func() { killBound = old }
}
