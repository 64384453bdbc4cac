package forkspawn

import (
	"maps"
	"math"
	"os"
	"slices"

	"github.com/spawnwire/spawnwire/forkspawn/internal/osproc"
	"github.com/spawnwire/spawnwire/forkspawn/internal/osproc/vfork"
	"github.com/spawnwire/spawnwire/transport"
)

// SysAttr is what a process sets for itself between fork and exec, in the order of the
// fields, so that its program begins with it. The zero SysAttr sets nothing. Do not
// change a SysAttr that a Spawner has.
//
// If one cannot be set, the start fails, and the error matches an [*fs.PathError] with
// the setting and the system's error. For example: "start /bin/true: set RLIMIT_NOFILE
// to 10 (hard 5): invalid argument".
//
// It needs Linux 5.9 on amd64 or arm64. Other Unix systems and kernels have Credential
// only; for the other fields the error matches errors.ErrUnsupported.
type SysAttr struct {
	// Cgroup is the open directory of a control group (cgroups(7)), or nil. The
	// process enters the group and does not get the file.
	Cgroup *os.File
	// Nice is the nice value, from -20 to 19 (setpriority(2)), and Umask the file
	// mode creation mask, at most 0o777 (umask(2)). nil is this process's own.
	Nice, Umask *int
	// Limits are resource limits by their name in getrlimit(2), such as
	// "RLIMIT_NOFILE". A Go program raises its own soft RLIMIT_NOFILE to the hard one.
	Limits map[string]Limit
	// Credential is the user and the groups. nil is this process's own. A child of
	// another user needs Config.AllowOtherUsers, or Config.Listen with TCP or TLS.
	// The program and Spec.Dir must be accessible to the user. If this process could
	// not signal the user's processes, because it lacks CAP_KILL, the start fails.
	Credential *Credential
	// NoNewPrivileges keeps the process and its descendants from more privileges by
	// set-user-ID programs such as sudo (PR_SET_NO_NEW_PRIVS in prctl(2)).
	NoNewPrivileges bool
}

// Limit is a resource limit, in the unit of getrlimit(2). math.MaxUint64 is no limit.
type Limit struct{ Soft, Hard uint64 }

// Credential is the user and the groups of a process. They become its real, effective
// and saved ones, and the Groups its only supplementary groups.
type Credential struct {
	UID, GID uint32
	Groups   []uint32
}

// noID leaves an id as it is (setresuid(2)).
const noID = math.MaxUint32

// check refuses values that the kernel would change or does not know.
func (a *SysAttr) check() error {
	if a == nil {
		return nil
	}
	if a.Nice != nil && (*a.Nice < -20 || *a.Nice > 19) {
		return badField("Command.Sys.Nice", "%d is not from -20 to 19", *a.Nice)
	}
	if a.Umask != nil && *a.Umask&^0o777 != 0 {
		return badField("Command.Sys.Umask", "%#o is not from 0 to 0o777", *a.Umask)
	}
	if c := a.Credential; c != nil && (c.UID == noID || c.GID == noID) {
		return badField("Command.Sys.Credential", "%d is no id", uint32(noID))
	}
	for name := range a.Limits {
		if _, ok := osproc.LimitNumber(name); !ok {
			return badField("Command.Sys.Limits", "no limit %q in getrlimit(2)", name)
		}
	}
	return nil
}

// internal returns a as package osproc takes it, after check.
func (a *SysAttr) internal() *vfork.Settings {
	if a == nil {
		return nil
	}
	s := &vfork.Settings{Cgroup: a.Cgroup, Nice: a.Nice, Umask: a.Umask,
		Credential: (*vfork.Credential)(a.Credential), NoNewPrivs: a.NoNewPrivileges}
	for _, name := range slices.Sorted(maps.Keys(a.Limits)) {
		n, _ := osproc.LimitNumber(name)
		limit := a.Limits[name]
		s.Limits = append(s.Limits, vfork.Limit{Name: name, Resource: n,
			Soft: limit.Soft, Hard: limit.Hard})
	}
	return s
}

// checkUser refuses a child of another user that could not connect.
func (a *attempt) checkUser() error {
	cfg := &a.s.cfg
	if a.program || cfg.AllowOtherUsers || a.s.addr.Scheme != transport.SchemeUDS ||
		a.cmd.Sys == nil || a.cmd.Sys.Credential == nil {
		return nil
	}
	if uid := a.cmd.Sys.Credential.UID; int(uid) != os.Geteuid() {
		return badField("AllowOtherUsers",
			"a child of user %d cannot connect to the Unix socket; set it, or set Listen to tcp://127.0.0.1:0",
			uid)
	}
	return nil
}
