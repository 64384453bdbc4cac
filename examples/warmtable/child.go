package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"

	"github.com/spawnwire/spawnwire/blob"
	"github.com/spawnwire/spawnwire/forkspawn"
)

// Names of the entry, the warm-up, and the file of the Blob.
const (
	entry  = "answer"
	warmUp = "table"

	blobName = "table"
)

// tableEnv is the environment variable with the table to load, "SIZE" in bytes
// or "SIZE pointers". It is in the environment because a warm-up has no
// arguments.
const tableEnv = "WARMTABLE_TABLE"

// loaded is the table of this process. In a forked child it is already there.
var loaded struct {
	table table
	by    int // pid of the process that has loaded it
}

// load is the warm-up: it loads the table.
func load() error {
	var size int
	var kind string
	if n, err := fmt.Sscan(os.Getenv(tableEnv), &size, &kind); n < 1 {
		return fmt.Errorf("%s=%q: %w", tableEnv, os.Getenv(tableEnv), err)
	}
	loaded.by = os.Getpid()
	if kind == "pointers" {
		loaded.table = newPointers(size)
		return nil
	}
	loaded.table = newDictionary(size)
	// By default the heap doubles before a garbage collection, so each child
	// would keep garbage of the size of the table. Frequent collections are cheap
	// here, because the table has no pointers. Forked children inherit the
	// setting.
	debug.SetGCPercent(1)
	return nil
}

// question is the parent's message. With Collect it asks for a garbage
// collection instead of the meaning of a word.
type question struct {
	Word    string
	Collect bool
}

// answer is the child's message.
type answer struct {
	Known   bool
	Meaning string
	Loader  int // pid of the process that has loaded the table
}

// answerQuestions is the entry of a child. It runs until the parent asks it to
// stop or has died.
func answerQuestions(ctx context.Context, parent *forkspawn.Parent) error {
	file, err := parent.File(blobName)
	switch {
	case err == nil: // the parent has the table in a Blob
		b, err := blob.Open(file)
		if err != nil {
			return err
		}
		defer b.Close()
		var size int
		if err := parent.Spec().DecodeArgs(&size); err != nil {
			return err
		}
		loaded.table = extentOf(size).dictionary(b.Bytes())
		loaded.by = os.Getpid()
	case loaded.table == nil: // this child was executed, not forked from a template
		if err := load(); err != nil {
			return err
		}
	}
	for {
		var q question
		if err := parent.Recv(ctx, &q); err != nil {
			return err // Init exits with 0 if the parent has asked for the stop
		}
		a := answer{Loader: loaded.by}
		if q.Collect {
			runtime.GC()
		} else {
			a.Meaning, a.Known = loaded.table.lookup(q.Word)
		}
		if err := parent.Send(ctx, a); err != nil {
			return err
		}
	}
}
