//go:build unix && !linux

package handshake

import (
	"io/fs"
	"syscall"

	"golang.org/x/sys/unix"
)

const pollable = true

// pollInput asks poll(2) whether a descriptor has input. Signals, such as the
// runtime's own, interrupt even a poll without a wait.
func pollInput(fd uintptr) (yes, known bool) {
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		if err != unix.EINTR {
			return n > 0, err == nil
		}
	}
}

func eraseEnviron(string) {}

func yield() {}

// ownerOf returns the owner of a file.
func ownerOf(info fs.FileInfo) (uid int, known bool) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return int(st.Uid), true
}
