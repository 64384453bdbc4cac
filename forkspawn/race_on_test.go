//go:build race

package forkspawn_test

// raceEnabled: processes of a race build are too heavy to start many of.
const raceEnabled = true
