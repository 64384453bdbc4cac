//go:build unix && !linux

package forkspawn_test

// playFault does nothing, because the faulty children are for Linux.
func playFault() {}
