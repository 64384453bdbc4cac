//go:build !race

package refork

const raceDetector = false
