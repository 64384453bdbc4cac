package kubernetes

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/spawnwire/spawnwire/internal/wait"
)

// log copies the log of a container to a file.
type log struct {
	*pod
	file    *os.File // or nil
	closing sync.Once
	ended   chan struct{} // closed when the container has ended
	copied  chan struct{} // closed when all of the log is copied
	last    time.Time     // the time of the last line; it belongs to copy
}

func newLog(p *pod, file *os.File) *log {
	return &log{pod: p, file: file, ended: make(chan struct{}), copied: make(chan struct{})}
}

// close closes the file.
func (g *log) close() {
	g.closing.Do(func() {
		if g.file != nil {
			g.file.Close()
		}
	})
}

// settle waits until the log of an ended container is copied, and closes the file.
func (g *log) settle(bound time.Duration) {
	close(g.ended)
	wait.For(context.Background(), g.copied, bound)
	g.close()
}

// copy copies the log. If the stream breaks off, copy continues after the last line, by the
// time that the kubelet has given it.
func (g *log) copy(ctx context.Context) {
	defer close(g.copied)
	if g.file == nil {
		return
	}
	pause := firstPause
	for {
		final := wait.Closed(g.ended) // then the log is complete
		err := g.follow(ctx)
		var write *writeError
		if ctx.Err() != nil || errors.As(err, &write) || apierrors.IsNotFound(err) ||
			final && (err == nil || isRefusal(err)) {
			return
		}
		if err == nil {
			pause = firstPause
		}
		between, cancel := context.WithTimeout(ctx, pause)
		wait.For(between, g.ended, pause)
		cancel()
		pause = min(2*pause, lastPause)
	}
}

// writeError is an error of the file.
type writeError struct{ error }

// follow copies one stream, and returns nil at its end.
func (g *log) follow(ctx context.Context) error {
	options := &corev1.PodLogOptions{Container: g.container, Follow: true, Timestamps: true}
	since := g.last
	if !since.IsZero() {
		options.SinceTime = &metav1.Time{Time: since} // its unit is a second
	}
	stream, err := g.pods.GetLogs(g.object.Name, options).Stream(ctx)
	if err != nil {
		return err
	}
	defer stream.Close()
	in := bufio.NewReader(stream)
	begins, skip := true, false // at the begin of a line; in a line of an earlier stream
	for {
		part, err := in.ReadSlice('\n')
		if begins && len(part) > 0 {
			at, text := cutTime(part)
			if skip = !at.After(since) && !at.IsZero(); !skip && !at.IsZero() {
				g.last = at
			}
			part = text
		}
		if !skip && len(part) > 0 {
			if _, err := g.file.Write(part); err != nil {
				return &writeError{err}
			}
		}
		begins = err == nil
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil && !errors.Is(err, bufio.ErrBufferFull):
			return err
		}
	}
}

// cutTime cuts the time off a line of the log. The time is zero if there is none.
func cutTime(line []byte) (time.Time, []byte) {
	for i, b := range line[:min(len(line), len(time.RFC3339Nano)+1)] {
		if b == ' ' {
			if at, err := time.Parse(time.RFC3339Nano, string(line[:i])); err == nil {
				return at, line[i+1:]
			}
			break
		}
	}
	return time.Time{}, line
}
