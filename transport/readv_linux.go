package transport

import "golang.org/x/sys/unix"

// readv reads into several buffers with one call; nil where there is no such call.
var readv = unix.Readv
