package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"

	"github.com/spawnwire/spawnwire/forkspawn"
)

// The names by which the parent asks for what is in this file.
const (
	entry  = "answer"
	warmUp = "table"
)

// tableEnv says in children and template which table to load: "bytes" or "bytes pointers". A warm-up has no parameters but these.
const tableEnv = "WARMTABLE_TABLE"

// loaded is the table of this process. A forked child finds it here.
var loaded struct {
	table table
	by    int // the process that loaded it
}

// load is the warm-up.
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
	// A heap grows by so many percent of all that it holds, the table with it, before it is collected. With the default of 100
	// each child would gather as much garbage as the table is large. Collections are cheap here, as they have nothing to look for in
	// the table. Forked children have this setting from their template.
	debug.SetGCPercent(1)
	return nil
}

// What parent and child say to each other.
type (
	// question is about a word, or asks for a collection.
	question struct {
		Word    string
		Collect bool
	}
	// answer has what a word means, if it is known.
	answer struct {
		Known   bool
		Meaning string
		Loader  int // the process that has loaded the table
	}
)

// answerQuestions is the life of a child. It ends when the parent asks it to stop, or is gone.
func answerQuestions(ctx context.Context, parent *forkspawn.Parent) error {
	if loaded.table == nil { // executed, and not forked from a template
		if err := load(); err != nil {
			return err
		}
	}
	for {
		var q question
		if err := parent.Recv(ctx, &q); err != nil {
			return err // for Init this is success if the parent asked for it
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
