package spawntest

import "time"

// Exported for the tests of this package only.
var (
	MakeDir     = makeDir
	RaceOptions = raceOptions
)

// SetPatience sets how long Leaks waits. The returned function resets it.
func SetPatience(d time.Duration) (reset func()) {
	old := patience
	patience = d
	return func() { patience = old }
}

// SetBound sets how long Eventually waits. The returned function resets it.
func SetBound(d time.Duration) (reset func()) {
	old := bound
	bound = d
	return func() { bound = old }
}
