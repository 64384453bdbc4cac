//go:build unix && !linux

package network

// endEvents is empty, because POLLHUP is always reported.
const endEvents = 0
