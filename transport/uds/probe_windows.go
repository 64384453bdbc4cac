package uds

import "golang.org/x/sys/windows"

const probeNetwork = "unix" // there are no datagram sockets in this family

const (
	errRefused   = windows.WSAECONNREFUSED
	errOtherType = windows.WSAEPROTOTYPE
	errAddrInUse = windows.WSAEADDRINUSE
)

// isQueueFull: a full queue cannot be told from a dead listener here; both are refused.
func isQueueFull(error) bool { return false }

// isOutOfDescriptors: there is no such limit here.
func isOutOfDescriptors(error) bool { return false }
