//go:build race

package refork

const raceDetector = true
