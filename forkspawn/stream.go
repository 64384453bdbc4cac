package forkspawn

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"github.com/spawnwire/spawnwire/forkspawn/internal/capture"
)

// Stream is a connection of one of a child's standard streams. The zero Stream is
// the default of its field in [Config].
type Stream struct {
	s     capture.Stream
	lines *lineFunc // of Lines, or nil
}

type lineFunc struct {
	call func(e ChildEvent, line []byte)
}

// Null connects a stream to the null device.
func Null() Stream { return Stream{s: capture.Stream{Mode: capture.ModeNull}} }

// Inherit connects a stream to this process's stream of the same number.
func Inherit() Stream { return Stream{s: capture.Stream{Mode: capture.ModeFile}} }

// File connects a stream to f. The caller closes f after the last start. The
// child gets f in blocking mode, because programs expect that. If f is a
// non-blocking socket, this changes its mode here too; other files are opened
// again for the child.
func File(f *os.File) Stream { return Stream{s: capture.Stream{Mode: capture.ModeFile, File: f}} }

// Capture reads a stream of the child all the time, so that the child never
// blocks on a full pipe. It keeps the last 4 KiB for errors and
// [Child.StderrTail].
//
// If w is not nil, a goroutine also writes everything to w, in whole lines. It
// waits a second for the end of a line, and 64 KiB for that of a long one. If w
// is more than 1 MiB behind, lines are dropped, and a line in w reports the
// number of bytes. The same happens while w returns errors, for example on a
// full disk. If w is os.Stdout or os.Stderr and nobody reads it any more, that
// is such an error, and no SIGPIPE. Several children may share a w with a
// concurrency-safe Write.
//
// The end of a child is reported when w has all that the child wrote, or has
// not taken it within a second. The rest is lost then. [Child.LostOutput]
// counts lost output, and [Spawner.Close] reports it.
//
// Capture is not available on Windows. There Spawn's error matches
// errors.ErrUnsupported.
func Capture(w io.Writer) Stream {
	return Stream{s: capture.Stream{Mode: capture.ModeCapture, W: w}}
}

// CaptureAll is Capture for a w that must get everything. If w is more than 1 MiB
// behind, the child is not read any more, and blocks when its pipe is full too. Its
// channel is not affected. At the end of a child, Close waits ten seconds for w.
func CaptureAll(w io.Writer) Stream {
	return Stream{s: capture.Stream{Mode: capture.ModeCapture, W: w, All: true}}
}

// LostOutputError is [Spawner.Close]'s error if writers of captured streams have not
// got all output of the children.
type LostOutputError struct {
	Bytes int64 // how much they have not got
}

func (e *LostOutputError) Error() string {
	return fmt.Sprintf("%d bytes of the children's output are lost: a writer of a captured stream "+
		"was too slow or failed", e.Bytes)
}

// Lines captures a stream and calls f with each line, without its end, and the child
// that wrote it. A line of more than 64 KiB comes in parts. The calls for one stream
// come one after the other. While f is slow, lines are dropped, as with [Capture];
// a call then has the text of the note, with the child's name. The event's time is
// that of the call. The lines of a template have the name "template" and no pid.
func Lines(f func(e ChildEvent, line []byte)) Stream {
	return Stream{s: capture.Stream{Mode: capture.ModeCapture}, lines: &lineFunc{f}}
}

// LogLines captures a stream and logs each line with the child's name, id and pid.
func LogLines(log *slog.Logger, level slog.Level) Stream {
	return Lines(func(e ChildEvent, line []byte) {
		log.Log(context.Background(), level, string(line), e.logArgs()...)
	})
}

// lineWriter calls a function with each line.
type lineWriter struct {
	*lineFunc
	// known is closed when event is set. The process can write before the parent
	// knows its pid.
	known chan struct{}
	event atomic.Pointer[ChildEvent] // a spare gets another name with its spec
}

// is says which child writes. It may be called again.
func (w *lineWriter) is(e ChildEvent) {
	if w.event.Swap(&e) == nil {
		close(w.known)
	}
}

// Write implements io.Writer. It gets whole lines, or a part of a long one.
func (w *lineWriter) Write(p []byte) (int, error) {
	<-w.known
	e := *w.event.Load()
	for line := range bytes.Lines(p) {
		if line = bytes.TrimRight(line, "\r\n"); len(line) > 0 {
			e.At = time.Now()
			w.call(e, line)
		}
	}
	return len(p), nil
}

// writerOf returns the stream of a new child, which has a lineWriter if it is of
// Lines.
func (a *attempt) writerOf(s Stream) capture.Stream {
	c, w := s.open()
	if w != nil {
		a.lineWriters = append(a.lineWriters, w)
	}
	return c
}

// templateStream returns the stream of a template, which has its own name.
func templateStream(s Stream) capture.Stream {
	c, w := s.open()
	if w != nil {
		w.is(ChildEvent{Name: templateName})
	}
	if c.Mode == capture.ModePipe {
		return Null().s // it is for the children
	}
	return c
}

// open returns the stream for one process, and its lineWriter if it is of Lines.
func (s Stream) open() (capture.Stream, *lineWriter) {
	if s.lines == nil {
		return s.s, nil
	}
	w := &lineWriter{lineFunc: s.lines, known: make(chan struct{})}
	s.s.W = w
	return s.s, w
}

// nameLines says which child has the lines.
func nameLines(writers []*lineWriter, e ChildEvent) {
	e.Context = nil // the writers live as long as the child
	for _, w := range writers {
		w.is(e)
	}
}

// checkStreams refuses streams that cannot have their place.
func checkStreams(stdin, stdout, stderr Stream) error {
	switch {
	case stdin.s.Mode == capture.ModeCapture:
		return badField("Stdin", "cannot be captured; use Pipe, or File with a pipe's read end")
	case stdout.s.From != nil:
		return badField("Stdout", "From is for Stdin only")
	case stderr.s.Mode == capture.ModePipe:
		return badField("Stderr", "Pipe is for Stdin and Stdout only; use Capture or Lines")
	}
	return nil
}

// openStreams opens the captured streams and the pipes, and sets the files in attr.
// After an error nothing is open.
func (a *attempt) openStreams(attr *ProcessAttr) (st capture.Streams, err error) {
	if a.stdin.s.Mode == capture.ModePipe {
		if attr.Stdin, err = st.OpenStdin(a.stdin.s); err != nil {
			return st, explainScarcity(err)
		}
	}
	if a.program && a.ready.output != nil {
		st.Watch = a.ready.output.stream
	}
	files, err := st.Open(a.writerOf(a.stdout), a.writerOf(a.stderr))
	if err != nil {
		return st, explainScarcity(err)
	}
	attr.Stdout, attr.Stderr = files[0], files[1]
	return st, nil
}
