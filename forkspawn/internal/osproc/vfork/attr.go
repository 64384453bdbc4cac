package vfork

import "syscall"

// Attr is what Start starts.
type Attr struct {
	Path string   // for execve
	Args []string // beginning with the program's name
	Env  []string
	// Secret is one more entry of the environment, "key=value". Start leaves no
	// copy of it.
	Secret []byte
	Dir    string // the working directory; "" is the parent's

	// Files become the descriptors 0, 1, 2 and so on. With a Cgroup in Settings, the last
	// one is its directory, and the program does not get it.
	Files []int
	// OwnGroup makes the child the leader of a new process group.
	OwnGroup bool
	// NewSession makes the child the leader of a new session, too, without a
	// controlling terminal.
	NewSession bool
	// ParentDeathSignal is sent to the child when the calling thread ends
	// (PR_SET_PDEATHSIG in prctl(2)); 0 is none.
	ParentDeathSignal syscall.Signal
	// Leash has descriptors that the child sets its process group as the owner of
	// (F_SETOWN in fcntl(2)), before it executes the program. 0 is none.
	Leash [2]int
	// Settings may be nil.
	Settings *Settings
}

// Error is a failed start. Step is the system call that failed. For one of the Settings
// it is in words.
type Error struct {
	Step    string
	Err     syscall.Errno
	Setting bool
}

func (e *Error) Error() string { return e.Step + ": " + e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }
