package transport_test

import "golang.org/x/sys/windows"

// resets has the system's errors after the peer's end.
var resets = []error{windows.WSAECONNRESET, windows.WSAECONNABORTED, windows.WSAETIMEDOUT}
