package forkspawn

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// Process is a running process as the boot race and the stop ladder see it. A custom runtime
// implements it, and Starter, for its own way of starting things, and keeps the handshake, the race,
// the ladder and the errors of this package. [OSProcess] is the usual one.
//
// Its methods are called concurrently.
type Process interface {
	// PID is the process's id as the kernel gives it on a Unix socket, or 0 when there is none.
	PID() int
	// Wait blocks until the process has ended and returns its status; again, at once, when called
	// again. It must not wait for pipes that the process, or its children, had open.
	Wait() ExitStatus
	// Signal sends a signal to the process or, with group, to all that it started and that it should
	// take along. For a process that has ended the error matches os.ErrProcessDone.
	Signal(sig syscall.Signal, group bool) error
}

// Starter starts children. A custom runtime puts its own into Config.Starter.
//
// Start is called from one goroutine at a time, which is locked to one operating system thread as long
// as the Spawner lives. It returns when the process runs, or could not be started: a child that connects before waits
// for it to be let in, for Config.HelloTimeout at most. The files stay the caller's.
type Starter interface {
	Start(ctx context.Context, attr ProcessAttr) (Process, error)
}

// Command is a program and how to call it.
type Command struct {
	// Path is the program: a path, or a name to look up in PATH. "" is this very program, through
	// /proc/self/exe where that exists, so that replacing the file on disk does no harm.
	Path string
	// Args are the arguments without the program's name.
	Args []string
	// Env is the environment as "key=value"; nil is this process's own. Of entries with one key the last
	// counts, as in os/exec. SPAWNWIRE_TICKET is set for the child in any case.
	Env []string
}

// ProcessAttr says how StartProcess starts a program.
type ProcessAttr struct {
	Command
	// Dir is the working directory; "" is this process's own.
	Dir string
	// Stdin, Stdout and Stderr become the child's descriptors 0, 1 and 2; nil is the null device.
	Stdin, Stdout, Stderr *os.File
	// OwnGroup makes the child the leader of a process group of its own. Whatever is left of the group
	// when the child has ended is killed.
	OwnGroup bool
	// ParentDeathSignal is sent to the child when the thread that started it ends (PR_SET_PDEATHSIG in
	// prctl(2)); 0 is none. The calling goroutine must be locked to its thread then, and that must live
	// as long as the child shall (golang/go#27505). Linux only; elsewhere it is ignored.
	ParentDeathSignal syscall.Signal

	ticket []byte // one more entry of Env, to be wiped by its owner; nil when Env has it
	spare  bool   // it will wait for its spec
}

// resolve finds the program and the full arguments.
func (c Command) resolve() (path string, args []string, err error) {
	if c.Path == "" {
		path, err = thisProgram()
		if err != nil {
			return "", nil, err
		}
		return path, append([]string{os.Args[0]}, c.Args...), nil
	}
	path = c.Path
	if !strings.ContainsRune(path, os.PathSeparator) {
		if path, err = exec.LookPath(path); err != nil {
			return "", nil, err
		}
	}
	return path, append([]string{c.Path}, c.Args...), nil
}

// programFromArgs finds the running program's file by its name, where the system does not tell.
func programFromArgs() (string, error) {
	if path, err := os.Executable(); err == nil {
		return path, nil
	}
	path, err := exec.LookPath(os.Args[0])
	if err != nil {
		return "", fmt.Errorf("forkspawn: cannot find this program's own file: %w", err)
	}
	return filepath.Abs(path)
}

// environ returns the environment with one variable set.
func (c Command) environ(key, value string) []string {
	return append(without(c.Env, key), key+"="+value)
}

// without returns the environment, or this process's own if that is nil, with one variable left out.
func without(env []string, key string) []string {
	if env == nil {
		env = os.Environ()
	}
	kept := make([]string, 0, len(env)+1)
	for _, kv := range env {
		if !strings.HasPrefix(kv, key+"=") {
			kept = append(kept, kv)
		}
	}
	return kept
}

// lastOfEach keeps the last of the entries with one key: a Go program takes the first that it is given,
// others the last. It changes nothing that env is made of.
func lastOfEach(env []string) []string {
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

// tryTextBusy is how often, and busyPause how long apart, a program is started again that somebody has
// open for writing: another thread's child between its fork and its exec (golang/go#22315).
const tryTextBusy = 10

// startFiles opens what ProcessAttr leaves nil and returns the three descriptors, and a function that
// closes what was opened.
func startFiles(attr *ProcessAttr) (files [3]*os.File, release func(), err error) {
	files = [3]*os.File{attr.Stdin, attr.Stdout, attr.Stderr}
	var null *os.File
	release = func() {
		if null != nil {
			null.Close()
		}
	}
	for i, f := range files {
		if f != nil {
			continue
		}
		if null == nil {
			if null, err = os.OpenFile(os.DevNull, os.O_RDWR, 0); err != nil {
				return files, func() {}, err
			}
		}
		files[i] = null
	}
	return files, release, nil
}
