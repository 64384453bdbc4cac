package forkspawn

import (
	"context"
	"errors"
	"io"

	"github.com/spawnwire/spawnwire/forkspawn/internal/capture"
)

// Pipe connects a stdin or a stdout to this program: see [Child.Stdin] and
// [Child.Stdout]. A child blocks when it has written about 64 KiB and nobody reads.
func Pipe() Stream { return Stream{s: capture.Stream{Mode: capture.ModePipe}} }

// From connects a stdin to r. A goroutine copies r to it, and closes it at the end of
// r. If the child ends before, the goroutine ends after the next Read of r returns.
// A restarted child gets the rest of r.
func From(r io.Reader) Stream {
	return Stream{s: capture.Stream{Mode: capture.ModePipe, From: r}}
}

// Stdin returns the writing end of the child's stdin. It is nil for other streams than
// [Pipe].
// Close ends the child's stdin. After the child's end, the error of Write is an
// [*ExitError].
func (c *Child) Stdin() io.WriteCloser {
	if c.streams.In == nil || c.streams.In.Fed() {
		return nil
	}
	return childStdin{c}
}

// Stdout returns the reading end of the child's stdout. It is nil for other streams
// than [Pipe]. At the end of the output, Read waits for the child's exit status, for two
// seconds at most. Its error is an [*ExitError] if the child has failed, and
// otherwise io.EOF. [Child.Stop] drops unread output.
func (c *Child) Stdout() io.ReadCloser {
	if c.streams.Out == nil {
		return nil
	}
	return childStdout{c}
}

type childStdin struct{ c *Child }

func (w childStdin) Write(p []byte) (int, error) {
	n, err := w.c.streams.In.File.Write(p)
	if err != nil && w.c.awaitExit(context.Background(), statusBound) {
		err = w.c.exitError(err)
	}
	return n, err
}

func (w childStdin) Close() error { return w.c.streams.In.File.Close() }

type childStdout struct{ c *Child }

func (r childStdout) Read(p []byte) (int, error) {
	n, err := r.c.streams.Out.Read(p)
	if err != nil && r.c.awaitExit(context.Background(), statusBound) &&
		!(errors.Is(err, io.EOF) && r.c.succeeded()) {
		err = r.c.exitError(err)
	}
	return n, err
}

func (r childStdout) Close() error { return r.c.streams.Out.Close() }
