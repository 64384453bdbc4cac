package spawntest

import (
	"crypto/rand"
	"os"
	"strings"
	"time"
)

// marksEnv is the variable with the marks of a process: those of its ancestors, divided by commas.
const marksEnv = "SPAWNWIRE_TEST_MARKS"

// Mark finds the processes of one case among those of others that run in parallel: what was started with
// the mark in its environment, and all that came of it. The zero Mark finds nothing.
//
//	mark := spawntest.NewMark()
//	child, err := spawner.SpawnCommand(ctx, forkspawn.Command{Env: mark.Env(nil)}, spec)
//	...
//	assert.Empty(t, mark.Leaks())
//
// It is found on Linux only. The methods may be called concurrently.
type Mark struct{ value string }

// NewMark returns a Mark that nobody has.
func NewMark() Mark { return Mark{rand.Text()} }

// Env returns a copy of an environment with the mark added, for forkspawn.Command.Env; nil stands for the environment
// of this process.
func (m Mark) Env(env []string) []string {
	if env == nil {
		env = os.Environ()
	}
	marked, old := make([]string, 0, len(env)+1), ""
	for _, kv := range env {
		if value, ok := strings.CutPrefix(kv, marksEnv+"="); ok {
			old = value
			continue
		}
		marked = append(marked, kv)
	}
	return append(marked, marksEnv+"="+m.in(old))
}

// in adds the mark to those that there are.
func (m Mark) in(marks string) string {
	if marks == "" {
		return m.value
	}
	return marks + "," + m.value
}

// Leaks returns the processes with the mark that run, each with its id, state and command line. It waits for ten
// seconds at most for those that are just ending, and returns at once when there is none. A zombie has no
// environment to be known by: ask [State] for those whose number the case knows.
func (m Mark) Leaks() []string {
	return await(time.Now().Add(patience), m.running)
}
