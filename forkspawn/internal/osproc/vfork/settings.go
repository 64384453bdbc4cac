package vfork

import (
	"fmt"
	"math"
	"os"
)

// Settings are what the child sets of itself before it executes the program, in the
// order of the fields. The program begins with them.
type Settings struct {
	Cgroup      *os.File // the directory of a control group; nil is the parent's
	Nice, Umask *int     // nil is the parent's
	Limits      []Limit
	Credential  *Credential // nil is the parent's
	NoNewPrivs  bool        // PR_SET_NO_NEW_PRIVS in prctl(2)
}

// Limit is a resource limit. Its last two fields are the kernel's struct rlimit64.
type Limit struct {
	Name     string
	Resource int
	Soft     uint64
	Hard     uint64
}

// Credential has the users, groups and supplementary groups of a process.
type Credential struct {
	UID, GID uint32
	Groups   []uint32
}

func (l Limit) String() string {
	return fmt.Sprintf("%s to %s (hard %s)", l.Name, limitValue(l.Soft), limitValue(l.Hard))
}

func limitValue(n uint64) string {
	if n == math.MaxUint64 {
		return "unlimited"
	}
	return fmt.Sprint(n)
}
