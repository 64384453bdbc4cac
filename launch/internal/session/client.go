package session

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/internal/link"
	"github.com/spawnwire/spawnwire/internal/wait"
)

const (
	// maxNoise is how much other output may come before a line for Answer.
	maxNoise = 64 << 10
	// maxLine is the longest such line.
	maxLine = 4 << 10
	// tailSize is how much of the program's stderr is kept.
	tailSize = 4 << 10
	// wordsBound is how long a failure waits for the end of the program and its last
	// words.
	wordsBound = 5 * time.Second
	// stderrBound is how long the rest of an ended program's stderr may take.
	stderrBound = 100 * time.Millisecond
)

// Client is a program of this machine that carries a session over its stdin and stdout:
// ssh(1) or podman(1), for example.
type Client struct {
	process forkspawn.Process
	stdin   *os.File
	stdout  *os.File
	stderr  *os.File
	in      *bufio.Reader // stdout
	magic   []byte        // begins each line for Answer
	copying sync.WaitGroup
	exited  chan struct{} // closed when the program has ended, after status is set
	status  forkspawn.ExitStatus
	lost    atomic.Bool // the program will not end by itself

	mu   sync.Mutex // guards tail
	tail []byte     // of stderr
}

// StartClient starts a program with start. nonce is in each line for Answer. In the end
// the caller calls End.
func StartClient(
	l *forkspawn.Launch, args []string, nonce string,
	start func(forkspawn.ProcessAttr) (forkspawn.Process, error),
) (_ *Client, err error) {
	var ours, theirs [3]*os.File
	defer func() {
		for _, f := range theirs {
			f.Close()
		}
		if err != nil {
			for _, f := range ours {
				f.Close()
			}
		}
	}()
	for fd := range ours {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		if ours[fd], theirs[fd] = r, w; fd == 0 {
			ours[fd], theirs[fd] = w, r
		}
	}
	process, err := start(forkspawn.ProcessAttr{
		// With a session of its own it cannot ask for a password at the terminal.
		Command: forkspawn.Command{Path: args[0], Args: args[1:], NewSession: true},
		Stdin:   theirs[0], Stdout: theirs[1], Stderr: theirs[2], OwnGroup: true,
	})
	if errors.Is(err, exec.ErrNotFound) { // in PATH
		err = &fs.PathError{Op: "exec", Path: args[0], Err: fs.ErrNotExist}
	}
	if err != nil {
		return nil, err
	}
	c := &Client{process: process, stdin: ours[0], stdout: ours[1], stderr: ours[2],
		in: bufio.NewReaderSize(ours[1], maxLine), exited: make(chan struct{}),
		magic: []byte(link.Magic + nonce + " ")}
	l.Go(func() {
		c.status = process.Wait()
		close(c.exited)
	})
	c.relay(l.Stderr)
	return c, nil
}

// relay copies the program's stderr to that of the child, and keeps the end.
func (c *Client) relay(f *os.File) {
	var to io.WriteCloser
	if f != nil {
		if w, err := Duplicate(f); err == nil {
			to = w
		}
	}
	c.copying.Go(func() {
		if to != nil {
			defer to.Close()
		}
		buf := make([]byte, tailSize)
		for {
			n, err := c.stderr.Read(buf)
			c.mu.Lock()
			c.tail = append(c.tail, buf[:n]...)
			c.tail = bytes.Clone(c.tail[max(0, len(c.tail)-tailSize):])
			c.mu.Unlock()
			if n > 0 && to != nil {
				to.Write(buf[:n])
			}
			if err != nil {
				return
			}
		}
	})
}

// Words returns the end of the program's stderr, and all of it if the program has
// ended.
func (c *Client) Words() string {
	if wait.Closed(c.exited) {
		c.stderr.SetReadDeadline(time.Now().Add(stderrBound))
		c.copying.Wait()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return string(c.tail)
}

// Ended waits some time for the end of the program, and returns its status.
func (c *Client) Ended() (status forkspawn.ExitStatus, ended bool) {
	if !wait.For(context.Background(), c.exited, wordsBound) {
		return forkspawn.ExitStatus{}, false
	}
	return c.status, true
}

// Interrupt ends a start in progress: it ends the program's stdin, and after a time
// sends a signal. Answer then returns an error.
func (c *Client) Interrupt(after time.Duration, sig syscall.Signal) {
	c.stdin.Close()
	if !wait.For(context.Background(), c.exited, after) {
		c.process.SignalGroup(sig)
	}
	// Another process can have the other end, and can be stopped.
	c.stdout.SetReadDeadline(time.Now())
}

// Abandon lets End not wait for the end of the program.
func (c *Client) Abandon() { c.lost.Store(true) }

// ErrNoise is the error of Answer if there was too much other output.
var ErrNoise = fmt.Errorf("%d bytes of other output", maxNoise)

// Answer returns the next line with the nonce: its first word, and the rest. It skips
// anything before it.
func (c *Client) Answer() (word, rest string, err error) {
	if err := c.skipNoise(); err != nil {
		return "", "", err
	}
	line, err := c.in.ReadSlice('\n')
	if err != nil && len(line) == 0 {
		return "", "", io.ErrUnexpectedEOF
	}
	word, rest, _ = strings.Cut(strings.TrimRight(string(line), "\r\n"), " ")
	return word, rest, nil
}

// AwaitReady waits for the supervisor and returns the rest of its answer. If ctx ends first,
// AwaitReady calls interrupt, which must call Interrupt, and returns the reason. The
// supervisor may then run.
func (c *Client) AwaitReady(
	ctx context.Context, interrupt func(),
) (rest string, interrupted bool, err error) {
	over := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(over)
		interrupt()
	})
	word, rest, err := c.Answer()
	switch {
	case !stop():
		<-over
		return "", true, wait.Cause(ctx)
	case err == nil && word != "ready":
		err = fmt.Errorf("the supervisor has answered %q", word)
	}
	return rest, false, err
}

// skipNoise reads up to the magic and skips it.
func (c *Client) skipNoise() error {
	matched := 0
	for range maxNoise {
		b, err := c.in.ReadByte()
		if err != nil {
			return err
		}
		switch {
		case b == c.magic[matched]:
			matched++
		case b == c.magic[0]:
			matched = 1 // the first byte is nowhere else in the magic's constant part
		default:
			matched = 0
		}
		if matched == len(c.magic) {
			return nil
		}
	}
	return ErrNoise
}

// Read reads from the supervisor.
func (c *Client) Read(p []byte) (int, error) { return c.in.Read(p) }

// Write writes to the supervisor.
func (c *Client) Write(p []byte) (int, error) { return c.stdin.Write(p) }

var errSilentKill = errors.New("there was no answer to SIGKILL")

// WhyLost returns the reason, if it is known, of a link that has ended because of
// cause: lost with that reason.
func (c *Client) WhyLost(name string, lost, cause error) error {
	switch {
	case errors.Is(cause, link.ErrClosed):
		cause = errSilentKill
	case !errors.Is(cause, link.ErrSilent):
		if status, ended := c.Ended(); ended {
			return fmt.Errorf("%w: %s has ended: %v", lost, name, status)
		}
		return lost
	}
	c.Abandon()
	return fmt.Errorf("%w: %w", lost, cause)
}

// End ends the program and returns how. If the connection works, the supervisor sees
// its end first, and the program may take as long as bound.
func (c *Client) End(bound time.Duration) forkspawn.ExitStatus {
	c.stdin.Close()
	if c.lost.Load() || !wait.For(context.Background(), c.exited, bound) {
		c.process.SignalGroup(syscall.SIGKILL)
		<-c.exited
	}
	c.stderr.SetReadDeadline(time.Now().Add(stderrBound))
	c.copying.Wait()
	c.stdout.Close()
	c.stderr.Close()
	return c.status
}
