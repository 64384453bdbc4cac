package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// console writes whole lines to stderr and, on a terminal, one line of progress
// below them. It is also the Writer for the workers' stderr. Its methods may be
// called concurrently.
type console struct {
	w        io.Writer
	terminal bool

	mu    sync.Mutex // guards the fields below and the order of writes
	shown bool       // the cursor is in the line of progress
	last  time.Time  // when progress was last written
	ended bool
}

func newConsole(f *os.File) *console {
	// Other character devices count as terminals too. For /dev/null that does not
	// matter.
	info, err := f.Stat()
	return &console{w: f, terminal: err == nil && info.Mode()&os.ModeCharDevice != 0}
}

func (c *console) printf(format string, values ...any) {
	fmt.Fprintf(c, "treehash: "+format+"\n", values...)
}

func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.clear()
	return c.w.Write(p)
}

// progress shows how many files are done. It writes at most ten times a second.
func (c *console) progress(done, total int) {
	if !c.terminal {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := time.Now(); !c.ended && now.Sub(c.last) >= time.Second/10 {
		c.clear()
		fmt.Fprintf(c.w, "%d of %d files", done, total)
		c.shown, c.last = true, now
	}
}

// end removes the line of progress. After it progress does nothing.
func (c *console) end() {
	if !c.terminal {
		return // and does not wait for the lock, whose holder may block in a full pipe
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.clear()
	c.ended = true
}

func (c *console) clear() {
	if c.shown {
		io.WriteString(c.w, "\r\x1b[K") // go to the start of the line and erase it (ECMA-48)
		c.shown = false
	}
}
