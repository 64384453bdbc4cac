//go:build unix && !linux

package forkspawn_test

// playFault: the faulty children look at sockets and processes as Linux shows them.
func playFault() {}
