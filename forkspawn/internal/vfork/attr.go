package vfork

import "syscall"

// Attr says what to start and how.
type Attr struct {
	Path string   // passed to execve as it is
	Args []string // with the program's name first
	Env  []string
	// Secret is one more entry of the environment, "key=value". Start leaves no copy of it.
	Secret []byte
	Dir    string // "" is the parent's

	// Files are the descriptors that become 0, 1 and 2.
	Files [3]int
	// OwnGroup makes the child the leader of a process group of its own.
	OwnGroup bool
	// ParentDeathSignal is sent to the child when the calling thread ends (prctl(2), PR_SET_PDEATHSIG);
	// 0 is none.
	ParentDeathSignal syscall.Signal
}

// Error is a failed start. Step is the system call that failed.
type Error struct {
	Step string
	Err  syscall.Errno
}

func (e *Error) Error() string { return e.Step + ": " + e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }
