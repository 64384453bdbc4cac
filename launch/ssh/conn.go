package ssh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/internal/link"
	"github.com/spawnwire/spawnwire/launch/internal/session"
)

// conn is a running ssh. It implements session.Engine.
type conn struct {
	*session.Client
	host      *Host
	near, far netip.AddrPort // of the TCP connection, as the host sees it
}

// start starts ssh.
func (h *Host) start(
	ctx context.Context, l *forkspawn.Launch, args []string, nonce string,
) (*conn, error) {
	client, err := session.StartClient(l, args, nonce,
		func(attr forkspawn.ProcessAttr) (forkspawn.Process, error) { return l.Start(ctx, attr) })
	if err != nil {
		return nil, fmt.Errorf("ssh: %w", err)
	}
	return &conn{Client: client, host: h}, nil
}

// say sends a line to the script.
func (c *conn) say(line string) { fmt.Fprintln(c, line) }

// maxEarly is the longest request that is sent before the first answer. The pipe takes
// it, so the write does not wait.
const maxEarly = 4 << 10

// ask sends the request before the supervisor runs, if it is short, and reports whether
// it has done so.
func (c *conn) ask(l *forkspawn.Launch) bool {
	request, err := session.Request(l)
	if err != nil || len(request) > maxEarly {
		return false
	}
	c.Write(request) // after an error there is no answer
	clear(request)   // it has a secret
	return true
}

// upload sends a program to the script.
func (c *conn) upload(p *program) error {
	f, err := os.Open(p.path)
	if err != nil {
		return err
	}
	defer f.Close()
	c.say(fmt.Sprintf("send %d", p.size))
	// When the script has failed it does not read the rest; its answer has the reason.
	_, err = io.CopyN(c, f, p.size)
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("%s has become shorter", p.path)
	}
	return nil
}

// answer returns the next line of the script: its first word, and the rest.
func (c *conn) answer() (word, rest string, err error) {
	word, rest, err = c.Answer()
	switch {
	case errors.Is(err, session.ErrNoise), errors.Is(err, io.ErrUnexpectedEOF):
		err = &Error{Host: c.host.Name, Stderr: c.Words(),
			err: fmt.Errorf("%w: %w", ErrGreeting, err)}
	case err != nil:
		code := -1
		if status, ended := c.Ended(); ended {
			code = status.Code()
		}
		err = c.host.beforeGreeting(code, c.Words())
	}
	return word, rest, err
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

// Lost returns the error of a connection that has ended before the child.
func (c *conn) Lost(cause error) error {
	err := c.WhyLost("ssh", ErrLost, cause)
	return &Error{Host: c.host.Name, Stderr: c.Words(), err: err}
}

// endBound is how long ssh may take to end after its stdin has.
const endBound = 2 * time.Second

// End ends ssh.
func (c *conn) End() { c.Client.End(endBound) }
