//go:build !race

package forkspawn_test

const raceEnabled = false
