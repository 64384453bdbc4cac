package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// console is stderr: whole lines and, on a terminal, one line of progress below them. It may be used
// concurrently; as a Writer it takes what the workers write to their stderr.
type console struct {
	w        io.Writer
	terminal bool

	mu    sync.Mutex // guards what follows, and the order of writes
	shown bool       // the cursor stands in a line of progress
	last  time.Time  // when that was written
	ended bool
}

func newConsole(f *os.File) *console {
	// Other character devices, such as /dev/null, pass for terminals too, and take no harm.
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

// progress shows how many files are done, at most ten times a second.
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

// end clears the progress and lets no more of it appear.
func (c *console) end() {
	if !c.terminal {
		return // and does not wait for somebody whose write to a full pipe blocks
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.clear()
	c.ended = true
}

func (c *console) clear() {
	if c.shown {
		io.WriteString(c.w, "\r\x1b[K") // to the line's begin, and erase it (ECMA-48)
		c.shown = false
	}
}
