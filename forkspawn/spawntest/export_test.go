package spawntest

import "time"

// What tests need that users do not.
var (
	MakeDir     = makeDir
	RaceOptions = raceOptions
)

const MarksEnv = marksEnv

// SetPatience shortens the waits for what does not come, and returns what puts them back.
func SetPatience(d time.Duration) (undo func()) {
	oldPatience, oldBound := patience, bound
	patience, bound = d, d
	return func() { patience, bound = oldPatience, oldBound }
}
