// Package osproc starts one process, waits for it and signals it. If a start fails,
// it explains which resource is lacking.
package osproc

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/spawnwire/spawnwire/forkspawn/internal/osproc/vfork"
)

// Command is a program with its arguments and environment.
type Command struct {
	// Path is the program: a path, or a name to find in PATH. If it is empty, it
	// is this very program. /proc/self/exe finds it even if its file has been
	// replaced.
	Path string
	// Args are the arguments without the program's name.
	Args []string
	// Env is the environment, as "key=value"; nil is this process's own. Of
	// several entries with the same key the last one is used, as in os/exec.
	Env []string
	// NewSession makes the child the leader of a new session and of its process
	// group.
	NewSession bool
	// Settings are made in the child before the exec; nil is none.
	Settings *vfork.Settings
}

// Attr is what Start starts.
type Attr struct {
	Command
	// Secret is one more entry of Env, or nil. Its owner erases it after Start.
	Secret []byte
	// Dir is the working directory; "" is this process's own.
	Dir string
	// Stdin, Stdout and Stderr become the child's descriptors 0, 1 and 2. nil
	// is the null device.
	Stdin, Stdout, Stderr *os.File
	// Files become the child's descriptors from 3 on.
	Files []*os.File
	// OwnGroup makes the child the leader of a new process group. Wait kills
	// the rest of the group.
	OwnGroup bool
	// ParentDeathSignal is sent to the child when the starting thread ends
	// (PR_SET_PDEATHSIG in prctl(2)); 0 is none. It has an effect on Linux only.
	ParentDeathSignal syscall.Signal
	// Leash lets the kernel kill the child's process group when this process ends.
	// It needs OwnGroup or NewSession, and has an effect on Linux only.
	Leash bool
}

// resolve returns the path of the program and all its arguments.
func (c Command) resolve() (path string, args []string, err error) {
	if c.Path == "" {
		path, err = thisProgram()
		if err != nil {
			return "", nil, err
		}
		return path, append([]string{ownName()}, c.Args...), nil
	}
	path = c.Path
	if !strings.ContainsRune(path, os.PathSeparator) {
		if path, err = exec.LookPath(path); err != nil {
			return "", nil, err
		}
	}
	return path, append([]string{c.Path}, c.Args...), nil
}

// ownName returns this program's name for the command line of a child. A
// program may have emptied os.Args, or have been started without arguments.
func ownName() string {
	if len(os.Args) > 0 && os.Args[0] != "" {
		return os.Args[0]
	}
	if path, err := os.Executable(); err == nil {
		return path
	}
	return "self"
}

// programFromArgs returns the path of this program. If the system does not know
// it, programFromArgs looks in PATH.
func programFromArgs() (string, error) {
	if path, err := os.Executable(); err == nil {
		return path, nil
	}
	path, err := exec.LookPath(ownName())
	if err != nil {
		return "", fmt.Errorf("forkspawn: cannot find this program's own file: %w", err)
	}
	return filepath.Abs(path)
}

// Without returns a copy of env without some variables. A nil env is this process's
// own environment.
func Without(env []string, keys ...string) []string {
	if env == nil {
		env = os.Environ()
	}
	kept := make([]string, 0, len(env)+1)
	for _, kv := range env {
		key, _, _ := strings.Cut(kv, "=")
		if !slices.Contains(keys, key) {
			kept = append(kept, kv)
		}
	}
	return kept
}

// LastOfEach returns a copy of env with the last entry of each key. A child could
// use the first of several entries, as Go programs do, or the last.
func LastOfEach(env []string) []string {
	at := make(map[string]int, len(env))
	kept := make([]string, 0, len(env))
	for _, kv := range env {
		key, _, _ := strings.Cut(kv, "=")
		if i, ok := at[key]; ok && key != "" {
			kept[i] = kv
			continue
		}
		at[key] = len(kept)
		kept = append(kept, kv)
	}
	return kept
}

// tryTextBusy is how often a start is repeated if the program's file is open for
// writing. A child of another thread can have it open between its fork and its
// exec (golang/go#22315).
const tryTextBusy = 10

// StandardFiles opens what Attr leaves nil and returns the files that become the
// child's descriptors 0, 1 and 2. The caller calls release after the start.
//
// A file that is non-blocking is opened again in blocking mode, because programs
// expect that of their standard streams, and the mode belongs to all who share
// the open file. A file that cannot be opened again, such as a socket, becomes
// blocking itself.
func StandardFiles(attr *Attr) (files [3]*os.File, release func(), err error) {
	files = [3]*os.File{attr.Stdin, attr.Stdout, attr.Stderr}
	var opened []*os.File
	release = func() {
		for _, f := range opened {
			f.Close()
		}
	}
	var null *os.File
	for i, f := range files {
		switch {
		case f != nil:
			again, err := blocking(f)
			if err != nil {
				release()
				return files, func() {}, err
			}
			if again != nil {
				files[i] = again
				opened = append(opened, again)
			}
		case null == nil:
			if null, err = os.OpenFile(os.DevNull, os.O_RDWR, 0); err != nil {
				release()
				return files, func() {}, NoNullDevice(err)
			}
			opened = append(opened, null)
			fallthrough
		default:
			files[i] = null
		}
	}
	return files, release, nil
}
