//go:build unix && (!linux || msan || asan)

package handshake

import "golang.org/x/sys/unix"

func pollNow(fd *unix.PollFd) (int, error) { return unix.Poll([]unix.PollFd{*fd}, 0) }

func yield() {}
