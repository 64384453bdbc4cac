package transport_test

import "golang.org/x/sys/windows"

// resets has the system's errors after the peer's end.
var resets = []error{windows.WSAECONNRESET, windows.WSAECONNABORTED}

// silences has the errors of a connection to a machine without an answer.
var silences = []error{windows.WSAETIMEDOUT, windows.WSAEHOSTUNREACH, windows.WSAENETUNREACH}
