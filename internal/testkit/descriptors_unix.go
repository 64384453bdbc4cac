//go:build unix

package testkit

import "golang.org/x/sys/unix"

// ExhaustDescriptors leaves this process free descriptors that it can still
// open. The returned function makes all available again.
//
// The limit RLIMIT_NOFILE bounds the number of a descriptor, not how many
// there are, so the gaps are filled, too.
func ExhaustDescriptors(free int) (undo func()) {
	must := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	var old unix.Rlimit
	must(unix.Getrlimit(unix.RLIMIT_NOFILE, &old))
	must(unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 128, Max: old.Max}))
	var taken []int
	for {
		fd, err := unix.FcntlInt(0, unix.F_DUPFD_CLOEXEC, 3)
		if err == unix.EMFILE {
			break
		}
		must(err)
		taken = append(taken, fd)
	}
	for range min(free, len(taken)) {
		unix.Close(taken[len(taken)-1])
		taken = taken[:len(taken)-1]
	}
	return func() {
		for _, fd := range taken {
			unix.Close(fd)
		}
		must(unix.Setrlimit(unix.RLIMIT_NOFILE, &old))
	}
}
