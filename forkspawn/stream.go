package forkspawn

import (
	"io"
	"os"
)

// Stream says what one of a child's standard streams is connected to. The zero Stream is the default
// of where it stands; see Config.
type Stream struct {
	mode streamMode
	file *os.File
	w    io.Writer
}

type streamMode uint8

const (
	streamDefault streamMode = iota
	streamNull
	streamFile
	streamCapture
)

// Null connects a stream to the null device.
func Null() Stream { return Stream{mode: streamNull} }

// Inherit gives the child this process's own stream of the same number.
func Inherit() Stream { return Stream{mode: streamFile} }

// File gives the child a file, which stays the caller's to close. A file that was opened non-blocking
// is made blocking, as programs expect it.
func File(f *os.File) Stream { return Stream{mode: streamFile, file: f} }

// Capture reads what the child writes, all the time, so that a full pipe never blocks it. The last
// 4 KiB are kept for errors (Child.StderrTail). Everything is also written to w, unless w is nil, from a
// goroutine of the child's own; when w falls behind by more than 1 MiB the rest is dropped and a line
// in its place says how much. So it is with what w does not take because it fails, on a full disk, say: the
// line comes when w takes something again. Several children may share one w if its Write may be called concurrently.
func Capture(w io.Writer) Stream { return Stream{mode: streamCapture, w: w} }
