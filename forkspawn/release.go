package forkspawn

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/spawnwire/spawnwire/forkspawn/internal/capture"
	"github.com/spawnwire/spawnwire/forkspawn/internal/osproc"
	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/internal/access"
	"github.com/spawnwire/spawnwire/internal/unixsock"
	"github.com/spawnwire/spawnwire/internal/wait"
	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
)

// ErrReleased is the error of the methods of a [Child] after [Child.Release]. In the child
// it is the cause of the Context of its former parent, and the error of that Parent's
// methods.
var ErrReleased = errors.New("released: another parent may take the process over")

// requestsName is the name of the socket for the requests of Release among a child's
// files. A request is a connection that is sent over that socket. On it go, each as one
// message: the lease, in nanoseconds; a releaseAnswer with the ticket; true, as the
// parent's last word; a releaseAnswer without a ticket, when the child has let go.
const requestsName = "spawnwire-release"

type releaseAnswer struct{ Ticket, Error string }

// Handle is a released child, for [Spawner.Reattach]. It has an address and a secret. A
// file with a Handle must have mode 0600, because its reader can take the child over.
// encoding/json uses its MarshalText and UnmarshalText. The zero Handle is no child.
type Handle struct {
	ticket handshake.Ticket
	spec   []byte // encoded, without Args
}

// MarshalText implements [encoding.TextMarshaler]. The text is one line.
func (h Handle) MarshalText() ([]byte, error) {
	return []byte("1 " + base64.StdEncoding.EncodeToString(h.spec) + " " + h.ticket.Encode()), nil
}

// UnmarshalText implements [encoding.TextUnmarshaler].
func (h *Handle) UnmarshalText(text []byte) (err error) {
	fields := strings.SplitN(string(text), " ", 3)
	if len(fields) != 3 || fields[0] != "1" {
		return errors.New("forkspawn: not a handle of version 1")
	}
	if h.spec, err = base64.StdEncoding.DecodeString(fields[1]); err == nil {
		h.ticket, err = handshake.ParseTicket(fields[2])
	}
	if err != nil {
		return fmt.Errorf("forkspawn: handle: %w", err)
	}
	return nil
}

// releasing is what a child with Command.Releasable needs. A nil releasing is never
// released.
type releasing struct {
	conn net.Conn      // for requests
	turn chan struct{} // holds one value during a Release, and for good after it or Stop
	// ends with Stop, and so ends a Release in progress
	ctx    context.Context
	cancel context.CancelFunc

	mu   sync.Mutex    // makes the steps "is killed" and "is released" exclude each other
	gone chan struct{} // closed when the child is released
}

func newReleasing(conn net.Conn) *releasing {
	if conn == nil {
		return nil
	}
	r := &releasing{conn: conn, turn: make(chan struct{}, 1), gone: make(chan struct{})}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	return r
}

// life returns a context that ends with Stop and with the release.
func (r *releasing) life() context.Context {
	if r == nil {
		return context.Background()
	}
	return r.ctx
}

// end ends a Release in progress and all later ones, for Stop. It returns false if the
// child is released.
func (r *releasing) end() bool {
	if r == nil {
		return true
	}
	r.cancel()
	select {
	case r.turn <- struct{}{}:
		return true
	case <-r.gone:
		return false
	}
}

func (r *releasing) close() {
	if r != nil {
		r.cancel()
		r.conn.Close()
	}
}

// gone returns a channel that is closed when the child is released, or nil.
func (c *Child) gone() <-chan struct{} {
	if c.releasing == nil {
		return nil
	}
	return c.releasing.gone
}

func (c *Child) isReleased() bool { return c.releasing != nil && wait.Closed(c.releasing.gone) }

func (c *Child) wasReleased() error {
	return fmt.Errorf("forkspawn: child %q: %w", c.spec.Name, ErrReleased)
}

// awaitExitOrRelease is awaitExit for a channel that Release may have closed.
func (c *Child) awaitExitOrRelease(ctx context.Context) bool {
	timer := time.NewTimer(statusBound)
	defer timer.Stop()
	select {
	case <-c.exited:
	case <-c.gone():
	case <-timer.C:
	case <-ctx.Done():
	}
	return wait.Closed(c.exited) || c.isReleased()
}

// beginKill reports whether this call is the first to kill the child. A Release in
// progress fails then. After a Release signalGroup does nothing.
func (c *Child) beginKill() bool {
	if r := c.releasing; r != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
	}
	return c.killed.CompareAndSwap(false, true)
}

// confirmBound is how long Release waits for the child's last word. Only a child that is
// stopped or hangs needs so long. Tests set confirmBound.
var confirmBound = 10 * time.Second

// Release lets the child go: it outlives this process. A later process of the same user
// takes it over with [Spawner.Reattach]. If nobody does within the lease, the child ends.
// The kernel kills it two seconds after the lease, also if it is stopped.
//
// The child must have been started with [Command.Releasable], and it takes part by its
// call of [Parent.Next]. Release waits for that call until ctx ends. After an error the
// child is what it was, unless the error is an [*ExitError].
//
// Messages that are not received yet are lost, on both sides. Afterwards the methods of
// the Child return [ErrReleased], Stop and Kill do nothing, and Spawner.Close does not
// wait for the child. [Child.Wait] still tells its end. Until Release returns,
// the death of this process ends the child.
func (c *Child) Release(ctx context.Context, lease time.Duration) (Handle, error) {
	fail := func(err error) (Handle, error) {
		return Handle{}, prefixed(fmt.Sprintf("release %q", c.spec.Name), err)
	}
	r := c.releasing
	switch {
	case r == nil:
		return fail(errors.New("the child was started without Command.Releasable"))
	case lease <= 0:
		return fail(fmt.Errorf("a lease of %v", lease))
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(r.ctx, func() { cancel(errStopping) })()
	select {
	case r.turn <- struct{}{}:
	case <-r.gone:
		return fail(ErrReleased)
	case <-ctx.Done():
		if c.isReleased() { // the other Release has ended r.ctx
			return fail(ErrReleased)
		}
		return fail(wait.Cause(ctx))
	}
	handle, err := c.letOut(ctx, lease)
	if err != nil {
		<-r.turn
		if wait.Closed(c.exited) {
			return Handle{}, c.exitError(err)
		}
		return fail(err)
	}
	c.s.remove(c)
	c.s.forgetProcess(c)
	c.uncount()
	c.peer.Abort()
	c.release()
	c.report.released(c.event())
	return handle, nil
}

var (
	errStopping = errors.New("the child is being stopped")
	errUnasked  = errors.New("it answers in Parent.Next")
)

// letOut releases the child, or returns an error and changes nothing.
func (c *Child) letOut(ctx context.Context, lease time.Duration) (h Handle, err error) {
	spec := *c.spec
	spec.Args = nil
	if h.spec, err = spawnspec.Marshal(&spec); err != nil {
		return h, err
	}
	near, far, err := unixsock.Pair()
	if err != nil {
		return h, explainScarcity(err)
	}
	err = sendConns(ctx, c.releasing.conn, far)
	far.Close()
	ch := transport.New(near, transport.Config{MaxFrameSize: access.PreAuthLimit})
	defer ch.Abort()
	if err != nil {
		return h, c.explain(ctx, err)
	}
	answer, err := tell(ctx, ch, int64(lease))
	if err != nil {
		if ctx.Err() != nil {
			return h, fmt.Errorf("the child has not answered: %w; %w", wait.Cause(ctx), errUnasked)
		}
		return h, c.explain(ctx, err)
	}
	if h.ticket, err = handshake.ParseTicket(answer.Ticket); err != nil {
		return h, err
	}
	// From here on the child may let go, so its answer decides, and not ctx.
	confirm, cancel := context.WithTimeout(context.WithoutCancel(ctx), confirmBound)
	defer cancel()
	if _, err = tell(confirm, ch, true); errors.Is(err, context.DeadlineExceeded) {
		c.unanswered.Store(int64(confirmBound))
		c.kill()
		c.awaitExit(context.Background(), killBound)
	}
	if err != nil {
		return h, c.explain(ctx, err)
	}
	c.releasing.mu.Lock()
	defer c.releasing.mu.Unlock()
	if c.killed.Load() {
		return h, errStopping
	}
	if p, ok := c.proc.(interface{ Unleash() }); ok {
		p.Unleash()
	}
	close(c.releasing.gone)
	return h, nil
}

// tell sends a message of a Release and receives the answer.
func tell(ctx context.Context, ch *transport.Channel, v any) (a releaseAnswer, err error) {
	if err = ch.Send(ctx, v); err == nil {
		err = ch.Recv(ctx, &a)
	}
	if err == nil && a.Error != "" {
		err = errors.New(a.Error)
	}
	return a, err
}

// checkReleasable refuses a releasable child that cannot outlive this process.
func (a *attempt) checkReleasable() error {
	cfg, reason := &a.s.cfg, ""
	stdin, stdout, stderr := a.stdin.s.Mode, a.stdout.s.Mode, a.stderr.s.Mode
	switch {
	case !a.cmd.Releasable:
		return nil
	case !osproc.CanRelease:
		return &ConfigError{Field: "Command.Releasable", Reason: "not available on this platform",
			err: errors.ErrUnsupported}
	case a.program:
		reason = "a program without the protocol cannot wait for its next parent"
	case a.cmd.Launcher != nil:
		reason = "a child of a Launcher ends with its connection"
	case a.s.local != nil:
		reason = "an entry in this process ends with it"
	case cfg.Start != nil:
		reason = "Config.Start starts processes that this package cannot let go"
	case cfg.Subreaper:
		reason = "Config.Subreaper ends all that a child leaves"
	case cfg.AllowOtherUsers, a.cmd.Sys != nil && a.cmd.Sys.Credential != nil:
		reason = "a child of another user cannot be taken over; unset Config.AllowOtherUsers and Command.Sys.Credential"
	case stdin == capture.ModePipe:
		reason = "Stdin needs this process; use Null, Inherit or File"
	case stdout == capture.ModeCapture, stdout == capture.ModePipe:
		reason = "Stdout needs this process; use Null, Inherit or File"
	case stderr == capture.ModeDefault, stderr == capture.ModeCapture:
		reason = "Stderr is captured and needs this process; use Null, Inherit or File"
	default:
		return nil
	}
	return &ConfigError{Field: "Command.Releasable", Reason: reason}
}
