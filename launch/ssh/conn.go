package ssh

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/internal/link"
	"github.com/spawnwire/spawnwire/internal/wait"
	"github.com/spawnwire/spawnwire/launch/internal/session"
)

const (
	// maxNoise is how much other output may come before a line of the script.
	maxNoise = 64 << 10
	// maxLine is the longest line of the script.
	maxLine = 4 << 10
	// tailSize is how much of ssh's stderr is kept.
	tailSize = 4 << 10
	// endBound is how long ssh may take to end after its stdin has.
	endBound = 2 * time.Second
	// wordsBound is how long a failure waits for the end of ssh and its last words.
	wordsBound = time.Second
)

// conn is a running ssh. It implements session.Engine.
type conn struct {
	host    *Host
	process forkspawn.Process
	stdin   *os.File
	stdout  *os.File
	stderr  *os.File
	in      *bufio.Reader // stdout
	magic   []byte        // begins each line of the script
	copying sync.WaitGroup
	exited  chan struct{} // closed when ssh has ended, after status is set
	status  forkspawn.ExitStatus
	lost    atomic.Bool // ssh will not end by itself

	near, far netip.AddrPort // of the TCP connection, as the host sees it

	mu   sync.Mutex // guards tail
	tail []byte     // of stderr
}

// start starts ssh.
func (h *Host) start(ctx context.Context, l *forkspawn.Launch, args []string) (_ *conn, err error) {
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
			return nil, fmt.Errorf("ssh: %w", err)
		}
		if ours[fd], theirs[fd] = r, w; fd == 0 {
			ours[fd], theirs[fd] = w, r
		}
	}
	process, err := l.Start(ctx, forkspawn.ProcessAttr{
		// With a session of its own ssh cannot ask for a password at the terminal.
		Command: forkspawn.Command{Path: args[0], Args: args[1:], NewSession: true},
		Stdin:   theirs[0], Stdout: theirs[1], Stderr: theirs[2], OwnGroup: true,
	})
	if err != nil {
		return nil, fmt.Errorf("ssh: %w", err)
	}
	c := &conn{host: h, process: process, stdin: ours[0], stdout: ours[1], stderr: ours[2],
		in: bufio.NewReaderSize(ours[1], maxLine), exited: make(chan struct{})}
	l.Go(func() {
		c.status = process.Wait()
		close(c.exited)
	})
	c.relay(l.Stderr)
	return c, nil
}

// relay copies ssh's stderr to that of the child, and keeps the end.
func (c *conn) relay(f *os.File) {
	var to io.WriteCloser
	if f != nil {
		if w, err := session.Duplicate(f); err == nil {
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

// lastWords returns the end of ssh's stderr.
func (c *conn) lastWords() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return string(c.tail)
}

// interrupt ends a start in progress.
func (c *conn) interrupt() {
	c.lost.Store(true)
	c.process.SignalGroup(syscall.SIGKILL)
}

// say sends a line to the script.
func (c *conn) say(line string) { fmt.Fprintln(c.stdin, line) }

// upload sends a program to the script.
func (c *conn) upload(p *program) error {
	f, err := os.Open(p.path)
	if err != nil {
		return err
	}
	defer f.Close()
	c.say(fmt.Sprintf("send %d", p.size))
	// When the script has failed it does not read the rest; its answer has the reason.
	_, err = io.CopyN(c.stdin, f, p.size)
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("%s has become shorter", p.path)
	}
	return nil
}

// answer returns the next line of the script: its first word, and the rest. Anything
// before it is skipped.
func (c *conn) answer(h *Host) (word, rest string, err error) {
	if err := c.skipNoise(); err != nil {
		if !errors.Is(err, errNoise) {
			wait.For(context.Background(), c.exited, wordsBound)
			c.awaitWords()
			code := -1
			if wait.Closed(c.exited) {
				code = c.status.Code()
			}
			return "", "", h.beforeGreeting(code, c.lastWords())
		}
		return "", "", &Error{Host: h.Name, Stderr: c.lastWords(),
			err: fmt.Errorf("%w in %d bytes of other output", ErrGreeting, maxNoise)}
	}
	line, err := c.in.ReadSlice('\n')
	if err != nil && len(line) == 0 {
		return "", "", &Error{Host: h.Name, Stderr: c.lastWords(), err: ErrGreeting}
	}
	word, rest, _ = strings.Cut(strings.TrimRight(string(line), "\r\n"), " ")
	return word, rest, nil
}

var errNoise = errors.New("too much noise")

// skipNoise reads up to the magic and skips it.
func (c *conn) skipNoise() error {
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
	return errNoise
}

// ready notes the TCP connection: SSH_CONNECTION on the host.
func (c *conn) ready(connection string) {
	if f := strings.Fields(connection); len(f) == 4 {
		c.near, _ = netip.ParseAddrPort(net.JoinHostPort(f[0], f[1]))
		c.far, _ = netip.ParseAddrPort(net.JoinHostPort(f[2], f[3]))
	}
}

// peer reports whether the host's kernel answers.
func (c *conn) peer() link.Verdict { return link.TCPPeer(c.near, c.far) }

// Read reads from the supervisor.
func (c *conn) Read(p []byte) (int, error) { return c.in.Read(p) }

// Write writes to the supervisor.
func (c *conn) Write(p []byte) (int, error) { return c.stdin.Write(p) }

// Lost returns the error of a connection that has ended before the child.
func (c *conn) Lost(cause error) error {
	e := &Error{Host: c.host.Name, err: ErrLost}
	if why := explainEnd(cause); why != nil {
		c.lost.Store(true)
		e.err = fmt.Errorf("%w: %w", ErrLost, why)
	} else if wait.For(context.Background(), c.exited, wordsBound) {
		e.err = fmt.Errorf("%w: ssh has ended: %v", ErrLost, c.status)
	}
	c.awaitWords()
	e.Stderr = c.lastWords()
	return e
}

// awaitWords waits for the rest of stderr if ssh has ended.
func (c *conn) awaitWords() {
	if wait.Closed(c.exited) {
		c.stderr.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		c.copying.Wait()
	}
}

// End ends ssh. If the connection works, the supervisor sees its end first.
func (c *conn) End() {
	c.stdin.Close()
	if c.lost.Load() || !wait.For(context.Background(), c.exited, endBound) {
		c.process.SignalGroup(syscall.SIGKILL)
		<-c.exited
	}
	c.stderr.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	c.copying.Wait()
	c.stdout.Close()
	c.stderr.Close()
}
