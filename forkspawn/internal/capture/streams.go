// Package capture reads the output of child processes, into a tail for errors and
// into a writer. The writer may be slow.
package capture

import (
	"context"
	"io"
	"os"
	"time"

	"github.com/spawnwire/spawnwire/internal/wait"
)

// Stream is the connection of one of a child's standard streams.
type Stream struct {
	Mode Mode
	File *os.File  // for ModeFile; nil is this process's own stream
	W    io.Writer // for ModeCapture; nil keeps the tail only
	All  bool      // for ModeCapture: the child waits for W, and nothing is dropped
	From io.Reader // for ModePipe of a stdin: what is written to it; nil leaves it to the caller
}

// Mode is a kind of [Stream].
type Mode uint8

const (
	ModeDefault Mode = iota // this process's stdout, or a captured stderr
	ModeNull
	ModeFile
	ModeCapture
	ModePipe
)

// Passed returns the file for the child, or nil for the null device. own is this
// process's stream of the same number.
func (s Stream) Passed(own *os.File) *os.File {
	switch {
	case s.Mode != ModeFile:
		return nil
	case s.File == nil:
		return own
	}
	return s.File
}

// Streams are the captured streams and the pipes of one child.
type Streams struct {
	Stdout, Stderr *Pump    // nil if not captured
	In             *In      // of a stdin with ModePipe, or nil
	Out            *os.File // what a stdout with ModePipe is read from, or nil
	// Watch, if not nil, returns a function that gets all of one captured stream. It
	// must not block.
	Watch     func() func([]byte)
	childEnds []*os.File // closed after the child has got them
}

// OpenStdin opens the pipe of a stdin with ModePipe, and returns the child's end.
func (st *Streams) OpenStdin(stdin Stream) (childEnd *os.File, err error) {
	r, w, err := pipe(1)
	if err != nil {
		return nil, err
	}
	st.In = &In{File: w, from: stdin.From, done: make(chan struct{})}
	st.childEnds = append(st.childEnds, r)
	return r, nil
}

// Open opens the captured streams, and the pipe of stdout. The returned files become
// the child's stdout and stderr. The caller calls Started after the start of the
// process, then End after its end, and Close. After an error it calls nothing.
func (st *Streams) Open(stdout, stderr Stream) (files [2]*os.File, err error) {
	if stdout.Mode == ModeDefault {
		stdout.Mode = ModeFile
	}
	if stderr.Mode == ModeDefault {
		stderr = Stream{Mode: ModeFile}
		if available {
			stderr = Stream{Mode: ModeCapture, W: os.Stderr}
		}
	}
	for i, o := range []struct {
		Stream
		own  *os.File
		pump **Pump
	}{{stdout, os.Stdout, &st.Stdout}, {stderr, os.Stderr, &st.Stderr}} {
		var childEnd *os.File
		switch o.Mode {
		case ModeCapture:
			*o.pump, childEnd, err = newPump(o.W, o.All, st.Watch)
		case ModePipe:
			st.Out, childEnd, err = pipe(0)
		default:
			files[i] = o.Passed(o.own)
			continue
		}
		if err != nil {
			*o.pump = nil
			st.Started()
			st.End()
			st.Close()
			return files, err
		}
		files[i] = childEnd
		st.childEnds = append(st.childEnds, childEnd)
	}
	return files, nil
}

// Started begins to read, and closes the child's ends in this process. The caller
// calls it also if the start has failed.
func (st *Streams) Started() {
	st.Run()
	for _, f := range st.TakeChildEnds() {
		f.Close()
	}
}

// TakeChildEnds returns the child's ends of the captured streams. The caller must
// close them.
func (st *Streams) TakeChildEnds() []*os.File {
	ends := st.childEnds
	st.childEnds = nil
	return ends
}

// Feed begins to write stdin. The caller calls it after the start of the process.
func (st *Streams) Feed() {
	if st.In != nil && st.In.from != nil {
		st.In.fed = true
		go st.In.run()
	}
}

// Run begins to read the captured streams.
func (st *Streams) Run() {
	for _, p := range []*Pump{st.Stdout, st.Stderr} {
		if p != nil {
			go p.run()
		}
	}
}

// Settle reads the rest of the output after the child has ended.
func (st *Streams) Settle() {
	for _, p := range []*Pump{st.Stdout, st.Stderr} {
		if p != nil {
			p.settle()
		}
	}
}

// WriterTimeout bounds the wait for a slow writer at the end of a child. AllTimeout
// is the bound for a writer that must get all.
const (
	WriterTimeout = time.Second
	AllTimeout    = 10 * time.Second
)

// End closes the captured streams and stdin. It reports whether the writers have got
// all output.
func (st *Streams) End() (written bool) {
	written = true
	if st.In != nil {
		st.In.File.Close()
		if st.In.fed { // its Read may take longer
			wait.For(context.Background(), st.In.done, WriterTimeout)
		}
	}
	for _, p := range []*Pump{st.Stdout, st.Stderr} {
		if p != nil && !p.end() {
			written = false
		}
	}
	return written
}

// Close closes what stdout is read from.
func (st *Streams) Close() {
	if st.Out != nil {
		st.Out.Close()
	}
}

// In is what a child's stdin is written to.
type In struct {
	File *os.File
	from io.Reader
	fed  bool
	done chan struct{} // closed when from has ended, or the child does not read
}

// run writes from, and then closes the stdin.
func (in *In) run() {
	defer close(in.done)
	io.Copy(in.File, in.from)
	in.File.Close()
}

// Lost returns how many bytes the writers have not got and will not get. It is
// final after End.
func (st *Streams) Lost() (n int64) {
	for _, p := range []*Pump{st.Stdout, st.Stderr} {
		if p != nil {
			n += p.lost()
		}
	}
	return n
}

// Fed reports whether In is written by Feed.
func (in *In) Fed() bool { return in.from != nil }
