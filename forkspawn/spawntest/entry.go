package spawntest

import (
	"fmt"
	"path/filepath"
	"runtime"

	"github.com/spawnwire/spawnwire/forkspawn"
)

// Entry is a function that children of the test binary can be asked to run.
type Entry struct{ name string }

// Name is what the function is registered as: for spawnspec.Spec.Entry, where [Spawn] is not enough.
func (e *Entry) Name() string { return e.name }

// names has those that Func gave, each with how often it came up. Package-level variables are made by one
// goroutine, in an order that is the same in parent and child.
var names = map[string]int{}

// Func registers run as what children can run. It is called for a package-level variable, as it must have been
// called in the child too. Its name is the place in the source: "upper_test.go:12".
func Func(run forkspawn.Run) *Entry {
	if home.dir != "" {
		panic("spawntest: Func called after Main, so that no child could know it; call it for a package-level variable")
	}
	name := "func"
	if _, file, line, ok := runtime.Caller(1); ok {
		name = fmt.Sprintf("%s:%d", filepath.Base(file), line)
	}
	names[name]++
	if n := names[name]; n > 1 {
		name = fmt.Sprintf("%s#%d", name, n)
	}
	forkspawn.Register(name, run)
	return &Entry{name}
}
