// Package ssh starts children on other machines with the user's own ssh(1) command and
// configuration.
//
//	host := &ssh.Host{Name: "build1"}
//	there := forkspawn.WithCommand(forkspawn.Command{Launcher: host})
//	child, err := spawner.Spawn(ctx, spec, there)
//
// The other machine needs Linux, an sshd and a POSIX shell. It needs no installed
// program, no open port and no setting. The first start on a machine sends the binary
// of this program into a private cache directory. All connections of the child go
// through ssh's stdin and stdout.
//
// The program on the other machine calls forkspawn.Init or Join first thing in main, like
// every child. It then supervises the child: it passes signals on, and kills the
// child's process group when the connection to this process ends. The ticket with its
// secret goes through the connection too, and is never an argument, in an environment
// or in a file.
package ssh

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/internal/link"
	"github.com/spawnwire/spawnwire/internal/wait"
	"github.com/spawnwire/spawnwire/launch/internal/session"
)

const (
	defaultDeadAfter = 3 * time.Second
	// maxConnecting is how many connections to a host may be without a login. A stock
	// sshd refuses some from the tenth on (MaxStartups in sshd_config(5)).
	maxConnecting = 8
)

// Host is a machine that ssh can reach. It implements forkspawn.Launcher. The zero
// value with a Name is ready to use. A Host must not be copied or changed after its
// first use, and its methods may be called concurrently.
type Host struct {
	// Name is the host as ssh takes it: a name, user@name, or a Host of
	// ssh_config(5).
	Name string
	// Command is the ssh command and its first arguments. Nil is "ssh". ssh uses the
	// first value of each option, so those here win over the launcher's own: BatchMode
	// yes, ClearAllForwardings yes and ControlMaster no. With the last one the
	// children share a connection that exists, and never own it.
	Command []string
	// Programs are the binaries of this program for other platforms: a path on this
	// machine for "linux/arm64", for example. They must be built with
	// CGO_ENABLED=0, unless the other machine has the libraries.
	Programs map[string]string
	// CacheDir is the absolute path of the cache directory on the other machine. ""
	// is spawnwire in $XDG_CACHE_HOME or ~/.cache. It must belong to the user. Files
	// that were not used for 30 days are removed.
	CacheDir string
	// DeadAfter is how long the other machine may be silent. Zero is 3 seconds. A
	// process that is stopped or slow is not taken for dead if its kernel
	// acknowledges what was sent, and this kernel shows that (Linux, without a jump
	// host and without NAT).
	DeadAfter time.Duration

	mu         sync.Mutex
	binaries   map[string]*program // by the names of uname(1); nil before the first use
	connecting chan struct{}       // has a value for each connection without a login
	uploading  chan struct{}       // has a value while the binary is sent
	file       string              // the program there, or "" if it is not known
	moved      bool                // it was not there once
}

var _ forkspawn.Launcher = (*Host)(nil)

// Launch implements forkspawn.Launcher. Its error is an [*Error] if the host or ssh has
// reported it, and an [*fs.PathError] if the program or its directory cannot be used.
func (h *Host) Launch(ctx context.Context, l *forkspawn.Launch) (forkspawn.Launched, error) {
	if err := h.check(); err != nil {
		return nil, fmt.Errorf("ssh: Host.%w", err)
	}
	programs, err := h.programs()
	if err != nil {
		return nil, fmt.Errorf("ssh: %w", err)
	}
	c, asked, err := h.connect(ctx, l, programs)
	if err != nil {
		return nil, err
	}
	return session.Start(ctx, l, c, session.Config{Silence: h.deadAfter(), Peer: c.peer,
		Asked: asked})
}

// check checks the fields, and makes what the zero Host lacks.
func (h *Host) check() error {
	switch {
	case h.Name == "" || strings.HasPrefix(h.Name, "-"):
		return fmt.Errorf("field Name: %q is not a host", h.Name)
	case h.DeadAfter < 0:
		return fmt.Errorf("field DeadAfter: %v is negative", h.DeadAfter)
	case h.CacheDir != "" && (h.CacheDir[0] != '/' || strings.ContainsAny(h.CacheDir, "'!\n\\")):
		return fmt.Errorf("field CacheDir: %q is not an absolute path of plain characters", h.CacheDir)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.connecting == nil {
		h.connecting = make(chan struct{}, maxConnecting)
		h.uploading = make(chan struct{}, 1)
	}
	return nil
}

func (h *Host) deadAfter() time.Duration {
	if h.DeadAfter == 0 {
		return defaultDeadAfter
	}
	return h.DeadAfter
}

// acquire takes a place, and waits for it until ctx ends.
func acquire(ctx context.Context, places chan struct{}) error {
	select {
	case places <- struct{}{}:
		return nil
	case <-ctx.Done():
		return wait.Cause(ctx)
	}
}

// connect returns a connection to a supervisor on the host. asked reports whether the
// supervisor has the request already.
func (h *Host) connect(
	ctx context.Context, l *forkspawn.Launch, programs map[string]*program,
) (c *conn, asked bool, err error) {
	if err := acquire(ctx, h.connecting); err != nil {
		return nil, false, err
	}
	released := sync.OnceFunc(func() { <-h.connecting })
	defer released()
	nonce := rand.Text()
	order := link.Order(nonce, h.deadAfter())
	if file := h.place(); file != "" {
		c, err := h.start(ctx, l, h.arguments(directCommand(order, file)), nonce)
		if err != nil {
			return nil, false, err
		}
		asked := c.ask(l)
		if err = h.boot(ctx, c, programs, released); err == nil {
			return c, asked, nil
		}
		status := c.Client.End(endBound)
		if ctx.Err() != nil || status.Code() == exitSSH {
			return nil, false, err
		}
		h.forget()
	}
	c, err = h.start(ctx, l, h.arguments(remoteCommand(nonce, order, h.CacheDir, programs)), nonce)
	if err != nil {
		return nil, false, err
	}
	if err := h.boot(ctx, c, programs, released); err != nil {
		c.End()
		return nil, false, err
	}
	return c, false, nil
}

// place returns where the program is on the host, or "".
func (h *Host) place() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.file
}

// remember notes where the program is, of an answer of the script.
func (h *Host) remember(answer string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.moved {
		h.file = fileOf(answer)
	}
}

// forget lets all further starts use the script.
func (h *Host) forget() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.file, h.moved = "", true
}

// arguments returns the command line of ssh for a command on the host.
func (h *Host) arguments(remote string) []string {
	command := h.Command
	if len(command) == 0 {
		command = []string{"ssh"}
	}
	return append(command[:len(command):len(command)], "-T",
		"-o", "BatchMode=yes", "-o", "ControlMaster=no", "-o", "ClearAllForwardings=yes",
		"-o", "RemoteCommand=none", "--", h.Name, remote)
}

// boot leads the script on the host until the supervisor runs. It calls loggedIn after
// the first answer.
func (h *Host) boot(
	ctx context.Context, c *conn, programs map[string]*program, loggedIn func(),
) error {
	defer context.AfterFunc(ctx, func() { c.Interrupt(0, syscall.SIGKILL) })()
	fail := func(err error) error {
		if ctx.Err() != nil {
			return wait.Cause(ctx)
		}
		return err
	}
	word, rest, err := h.answer(c)
	if err != nil {
		return fail(err)
	}
	loggedIn()
	if word == "missing" {
		if err := acquire(ctx, h.uploading); err != nil {
			return err
		}
		defer func() { <-h.uploading }()
		if word, rest, err = h.fill(c, rest, programs); err != nil {
			return fail(err)
		}
	}
	if word != "ready" {
		return fail(h.answered(word, rest, c.Words()))
	}
	c.ready(rest)
	return nil
}

// answer returns the next answer of the script or of the supervisor, and remembers the
// place of the program.
func (h *Host) answer(c *conn) (word, rest string, err error) {
	word, rest, err = c.answer()
	if err == nil && word == "found" {
		h.remember(rest)
		word, rest, err = c.answer()
	}
	return word, rest, err
}

// fill sends the program, unless another start has done so, and returns the next
// answer.
func (h *Host) fill(
	c *conn, uname string, programs map[string]*program,
) (word, rest string, err error) {
	c.say("look")
	if word, rest, err = h.answer(c); err != nil || word != "missing" {
		return word, rest, err
	}
	p := programs[uname]
	if p == nil {
		return "platform", uname, nil
	}
	if err := c.upload(p); err != nil {
		return "", "", fmt.Errorf("ssh: %w", err)
	}
	return h.answer(c)
}
