//go:build race

package forkspawn_test

const raceDetector = true
