package spawntest

import "time"

// What tests need that users do not.
var (
	MakeDir     = makeDir
	RaceOptions = raceOptions
)

const MarksEnv = marksEnv

// SetPatience sets how long what is just ending is waited for, until the returned function is called.
func SetPatience(d time.Duration) (undo func()) {
	old := patience
	patience = d
	return func() { patience = old }
}

// SetBound sets how long Eventually waits, until the returned function is called.
func SetBound(d time.Duration) (undo func()) {
	old := bound
	bound = d
	return func() { bound = old }
}
