package network

import "golang.org/x/sys/unix"

// endEvents are the events of poll(2) for the end of a connection.
const endEvents = unix.POLLRDHUP
