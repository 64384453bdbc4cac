package handshake

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/spawnwire/spawnwire/transport"
)

// Identity is who a process is among its peers.
type Identity struct {
	ID   string // unique; 1 to 64 printable ASCII characters
	Name string // for people; at most 256 bytes
	PID  int    // as the process itself sees it
}

// orThisProcess fills what an Identity leaves open, and makes the name fit.
func (i Identity) orThisProcess() Identity {
	if i.ID == "" {
		i.ID = NewID()
	}
	if i.Name == "" && len(os.Args) > 0 {
		i.Name = filepath.Base(os.Args[0])
	}
	i.Name = cut(i.Name, maxName)
	if i.PID == 0 {
		i.PID = os.Getpid()
	}
	return i
}

// check finds what the other side would refuse.
func (i Identity) check() error {
	if i.PID < 0 || i.PID > maxPID {
		return fmt.Errorf("pid %d", i.PID)
	}
	return checkID(i.ID)
}

// JoinConfig has the settings of a child that joins. Its zero value is ready to use.
type JoinConfig struct {
	// Name is the child's own name, for logs; "" means the program's.
	Name string
	// Versions are the protocol versions that the child speaks; zero means those of this package.
	Versions Range
	// Limit is the channel's limit, in bytes, once the parent is known; 0 means transport.DefaultLimit.
	Limit int
	// OnCancel is called when the parent asks the child to stop; see transport.Config.
	OnCancel func(transport.Cancel)
	// Control announces that the child will open a control connection with AttachControl.
	Control bool
	// Ahead is for a connection that the parent serves with [Expected.Serve]: it says what it has to say before the hello, and proves it
	// of none.
	Ahead bool
	// Peek lets the spec stay in the socket until Ready or Fail, where that saves time; see transport.Channel.PeekFrame. A child that ends before
	// has not read its spec, as far as its parent can tell, who may give it to another: so it is for one that does nothing of it before.
	Peek bool
	// Rehearse has Join do for nothing, before it waits for the spec, what it will do with it. It is for a child that was forked and is in
	// reserve: of the memory that it writes to it has its own copy then.
	Rehearse bool
	// Meanwhile, if not nil, is called when the hello is sent, while the parent makes its answer: for
	// what takes time later and can be done, or be warmed up, now.
	Meanwhile func()
}

// Joined is a child that has been welcomed and has its spec, and owes its parent an answer: Ready or
// Fail. It is used by one goroutine at a time; its Channel, by many.
type Joined struct {
	Channel *transport.Channel
	Parent  Identity
	Version uint   // of the protocol
	Spec    []byte // the encoded spec; see package spawnspec

	id      string
	control bool
	session *Secret // a pointer, so that no %v prints it
}

// Join makes the child's side of the handshake over conn, which it takes over: on an error conn is
// closed. It returns when the parent has been proved to know the ticket's secret and the spec has
// arrived, or when ctx ends. Its errors are [*Error]s with a [*FailedError], [*VersionError],
// [ErrBadMAC], [ErrDismissed], transport's or the context's error in them.
func Join(ctx context.Context, conn net.Conn, t Ticket, cfg JoinConfig) (*Joined, error) {
	if err := transport.Secure(ctx, conn); err != nil {
		return nil, &Error{PhaseConnect, err}
	}
	ch := transport.New(conn, transport.Config{Limit: PreAuthLimit, OnCancel: cfg.OnCancel})
	j, phase, err := join(ctx, ch, t, cfg)
	if err != nil {
		ch.Abort()
		return nil, &Error{phase, err}
	}
	return j, nil
}

func join(ctx context.Context, ch *transport.Channel, t Ticket, cfg JoinConfig) (*Joined, Phase, error) {
	versions := cfg.Versions.orDefault()
	if !versions.valid() {
		return nil, PhaseHello, fmt.Errorf("JoinConfig.Versions: %s is no range", versions)
	}
	if err := checkID(t.ID); err != nil {
		return nil, PhaseHello, fmt.Errorf("Ticket.ID: %w", err)
	}
	if t.Secret == (Secret{}) {
		return nil, PhaseHello, errors.New("Ticket.Secret: empty") // anybody could prove to know it
	}
	me := Identity{ID: t.ID, Name: cfg.Name}.orThisProcess()
	msg := hello{Versions: versions, ID: me.ID, Name: me.Name, PID: me.PID, Nonce: childNonce()}
	if cfg.Control {
		msg.Features = []string{FeatureControl}
	}
	key := t.Secret[:]
	helloBody := seal(key, labelHello, msg.encode())
	if err := ch.WriteFrames(ctx, transport.Frame{Kind: transport.KindHello, Body: helloBody}); err != nil {
		// The parent may have refused and closed before it read: its words matter more.
		if !errors.Is(err, transport.ErrPeerGone) {
			return nil, PhaseHello, err
		}
	}

	warmUp()
	if cfg.Meanwhile != nil {
		cfg.Meanwhile()
	}
	if cfg.Ahead {
		helloBody = nil
	}
	welcomeBody, err := expectFrame(ctx, ch.ReadFrame, transport.KindWelcome, versions, PhaseAuth)
	if err != nil {
		return nil, PhaseAuth, err
	}
	w, err := openWelcome(key, helloBody, welcomeBody, versions)
	if err != nil {
		return nil, PhaseAuth, err
	}

	// Now, as a child in reserve has the time for it.
	j := &Joined{
		Channel: ch,
		Parent:  Identity{w.ID, w.Name, w.PID},
		Version: w.Version,
		id:      me.ID,
		control: cfg.Control && slices.Contains(w.Features, FeatureControl),
		session: sessionKey(key, helloBody, welcomeBody),
	}
	proof := startMAC(key, labelSpec, helloBody, welcomeBody)
	defer proof.forget()
	ch.SetLimit(cfg.Limit)
	if cfg.Rehearse {
		rehearse()
	}
	read := ch.ReadFrame
	if cfg.Peek {
		read = ch.PeekFrame
	}
	specBody, err := expectFrame(ctx, read, transport.KindSpec, versions, PhaseSpec)
	var asked *cancelledError
	if errors.As(err, &asked) && cfg.OnCancel != nil {
		cfg.OnCancel(asked.Cancel)
	}
	if err != nil {
		return nil, PhaseSpec, err
	}
	spec, err := openSpec(proof, specBody)
	if err != nil {
		ch.Unpeek()
		return nil, PhaseSpec, err
	}
	j.Spec = spec
	return j, "", nil
}

// warmUp decodes a welcome for nothing, once. The first that a process decodes takes ten times as long as the
// next, and there is no better moment for it than while the parent makes the real one.
var warmUp = sync.OnceFunc(func() {
	example := welcome{Version: ProtocolVersion, ID: "0", Nonce: make([]byte, nonceSize), Features: []string{FeatureControl}}
	decode(transport.KindWelcome, example.encode(), new(welcome))
})

// rehearse opens an example of a spec, of about the usual size, and makes an answer, for nothing.
func rehearse() {
	key := make([]byte, len(Secret{}))
	body := seal(key, labelSpec, make([]byte, 128))
	openSpec(startMAC(key, labelSpec), slices.Clone(body))
	ready{}.encode()
}

// openWelcome checks the parent's proof, and then what it says.
func openWelcome(key, helloBody, body []byte, ours Range) (w welcome, err error) {
	s, err := open(transport.KindWelcome, body)
	if err != nil {
		return w, err
	}
	if err := s.verify(key, labelWelcome, helloBody); err != nil {
		return w, err
	}
	if err := decode(transport.KindWelcome, s.Payload, &w); err != nil {
		return w, err
	}
	if err := checkPeer(transport.KindWelcome, w.ID, w.Name, w.PID, w.Nonce, w.Features); err != nil {
		return w, err
	}
	if w.Version < ours.Min || w.Version > ours.Max {
		return w, &VersionError{Ours: ours, Theirs: Range{Min: w.Version, Max: w.Version}}
	}
	return w, nil
}

// openSpec checks the proof of the orders, which was started. What they say is not this package's matter.
func openSpec(proof hmacSHA256, body []byte) ([]byte, error) {
	s, err := open(transport.KindSpec, body)
	if err != nil {
		return nil, err
	}
	proof.add(s.Payload)
	return s.Payload, s.verifySum(proof.sum())
}

// expectFrame reads the next frame, which must be of kind want, and returns a copy of its body. A failed
// frame in its place is the error that it stands for.
func expectFrame(
	ctx context.Context, read func(context.Context) (transport.Frame, error), want transport.Kind, ours Range, phase Phase,
) ([]byte, error) {
	f, err := read(ctx)
	switch {
	case err != nil:
		return nil, err
	case f.Kind == want:
		return slices.Clone(f.Body), nil
	case f.Kind == transport.KindFailed:
		return nil, failedError(f.Body, ours, phase)
	case f.Kind == transport.KindCancel && want == transport.KindSpec:
		c, _ := transport.ParseCancel(f.Body) // a request that cannot be read is one all the same
		return nil, &cancelledError{c}
	}
	return nil, fmt.Errorf("%w: a %s frame where %s belongs", transport.ErrProtocol, f.Kind, want)
}

// cancelledError is the ErrDismissed that a cancel frame stands for.
type cancelledError struct{ transport.Cancel }

func (e *cancelledError) Error() string { return ErrDismissed.Error() + ": " + e.Reason }
func (e *cancelledError) Unwrap() error { return ErrDismissed }

// newNonce draws a nonce that nobody can foresee.
func newNonce() []byte {
	b := make([]byte, nonceSize)
	rand.Read(b)
	return b
}

// childNonce draws a nonce that is new. That is all a child's must be, as its key serves one handshake
// only; the runtime's generator, which the kernel has seeded, does it without a system call.
func childNonce() []byte {
	b := make([]byte, 0, nonceSize)
	for len(b) < nonceSize {
		b = binary.LittleEndian.AppendUint64(b, mathrand.Uint64())
	}
	return b
}

// Ready tells the parent that the child took its orders. From then on the channel carries messages.
func (j *Joined) Ready(ctx context.Context, t Timings) error {
	err := j.Channel.WriteFrames(ctx, transport.Frame{Kind: transport.KindReady, Body: ready{t}.encode()})
	if err != nil {
		return &Error{PhaseReady, err}
	}
	yield() // the kernel likes to put whom a write wakes on the writer's processor, behind what this process does next
	j.Channel.Unpeek()
	return nil
}

// Fail tells the parent, in the child's own words, that it gives up, and closes the channel.
func (j *Joined) Fail(ctx context.Context, f FailedError) error {
	j.Channel.Unpeek() // else the close would reset the connection
	err := j.Channel.WriteFrames(ctx, f.frame(nil))
	j.Channel.CloseWith(ctx, 1, "")
	if err != nil {
		return &Error{f.Phase, err}
	}
	return nil
}

func (e FailedError) frame(versions *Range) transport.Frame {
	return transport.Frame{Kind: transport.KindFailed, Body: failed{e.Phase, e.Code, cut(e.Text, maxFailedText), versions}.encode()}
}

// Control tells whether parent and child agreed on a control connection.
func (j *Joined) Control() bool { return j.control }

// AttachControl makes conn, a second connection to the ticket's address, the one on which the parent
// sends its cancel. It takes conn over. The returned channel carries nothing else; its end without
// a goodbye means that the parent is gone. A parent that does not accept it says so with a failed
// frame there.
func (j *Joined) AttachControl(ctx context.Context, conn net.Conn) (*transport.Channel, error) {
	if err := transport.Secure(ctx, conn); err != nil {
		return nil, &Error{PhaseReady, err}
	}
	ch := transport.New(conn, transport.Config{Limit: PreAuthLimit})
	body := seal(j.session[:], labelAttach, attach{ID: j.id, Nonce: childNonce()}.encode())
	if err := ch.WriteFrames(ctx, transport.Frame{Kind: transport.KindAttach, Body: body}); err != nil {
		ch.Abort()
		return nil, &Error{PhaseReady, err}
	}
	return ch, nil
}
