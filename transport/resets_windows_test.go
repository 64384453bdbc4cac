package transport_test

import "golang.org/x/sys/windows"

// resets are the system's words for a peer that is gone.
var resets = []error{windows.WSAECONNRESET, windows.WSAECONNABORTED, windows.WSAETIMEDOUT}
