package handshake

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	mathrand "math/rand/v2"
	"net"
	"slices"

	"github.com/spawnwire/spawnwire/internal/access"
	"github.com/spawnwire/spawnwire/internal/frame"
	"github.com/spawnwire/spawnwire/internal/network"
	"github.com/spawnwire/spawnwire/internal/values"
	"github.com/spawnwire/spawnwire/transport"
)

// JoinConfig has the settings for Join. Its zero value is ready to use.
type JoinConfig struct {
	// Name is the child's own name, for logs. Empty means the program's name.
	Name string
	// MaxFrameSize is the channel's limit, in bytes, once the parent is known.
	// 0 means the parent's limit.
	MaxFrameSize int
	// OnCancel is called when the parent asks the child to stop. It runs in the
	// goroutine that receives, so it must not block or receive. Nil ignores
	// such requests.
	OnCancel func(Cancel)
	// Control announces that the child will open a control connection with
	// AttachControl.
	Control bool
	// Internal has settings for this module only.
	Internal access.JoinOptions
}

// Joined is a child after it has received its spec. It must answer its parent
// with Ready or Fail. Only one goroutine may use it at a time; many may use its
// Channel.
type Joined struct {
	Channel *transport.Channel
	Parent  Identity
	Spec    []byte // the encoded spec; see package spawnspec

	id      string
	control bool
	session secret          // the key of the control connection
	timings *access.Timings // may be nil
}

// Join performs the child's side of the handshake over conn. It returns when
// the parent has proved that it knows the ticket's secret and the spec has
// arrived, or when ctx ends. Then the caller calls Ready or Fail.
//
// Join takes conn over: on an error conn is closed. The error is an [*Error].
// It wraps a [*FailedError], a [*VersionError], [ErrBadMAC], an error of
// package transport or the context's error.
func Join(ctx context.Context, conn net.Conn, t Ticket, cfg JoinConfig) (*Joined, error) {
	if err := network.Secure(ctx, conn); err != nil {
		return nil, &Error{PhaseConnect, err}
	}
	ch := newChannel(conn, cfg.OnCancel)
	j, phase, err := join(ctx, ch, t, cfg)
	if err != nil {
		ch.Abort()
		return nil, &Error{phase, err}
	}
	return j, nil
}

func join(
	ctx context.Context, ch *transport.Channel, t Ticket, cfg JoinConfig,
) (*Joined, Phase, error) {
	versions := versionRange(cfg.Internal.Versions).orDefault()
	if err := checkID(t.ID); err != nil {
		return nil, PhaseHello, fmt.Errorf("Ticket.ID: %w", err)
	}
	if t.secret == nil || isZero(t.secret()) { // anybody could make this proof
		return nil, PhaseHello, errors.New("Ticket: no secret")
	}
	key := t.secret()
	me := self{Identity: thisProcess(Identity{ID: t.ID, Name: cfg.Name}), nonce: childNonce()}
	canShare := frames(ch).CanShare()
	me.features = features(cfg.Control, cfg.Internal.Inspect, canShare, canShare)
	helloBody := seal(key, labelHello, hello{versions, me}.encode())
	err := frames(ch).Write(ctx, frame.Frame{Kind: frame.KindHello, Body: helloBody})
	if err != nil && !errors.Is(err, transport.ErrPeerGone) {
		// If the parent is gone, it may have sent a refusal first. Its reason
		// counts.
		return nil, PhaseHello, err
	}
	welcomeBody, err := expectFrame(ctx, ch, frame.KindWelcome, versions, PhaseAuth)
	if err != nil {
		return nil, PhaseAuth, err
	}
	w, err := openWelcome(key, helloBody, welcomeBody, versions)
	if err != nil {
		return nil, PhaseAuth, err
	}

	if canShare {
		share(ch, w.features)
	}
	// A spare now waits for its spec. All work without the spec is done before.
	j := &Joined{
		Channel: ch,
		Parent:  w.Identity,
		id:      me.ID,
		control: cfg.Control && slices.Contains(w.features, featureControl),
		session: newSecret(sessionKey(key, helloBody, welcomeBody)),
		timings: cfg.Internal.Timings,
	}
	specMAC := startMAC(key, labelSpec, helloBody, welcomeBody)
	limit := cfg.MaxFrameSize
	if limit == 0 {
		limit = w.limit
	}
	frames(ch).SetMaxSize(limit)
	specBody, err := expectFrame(ctx, ch, frame.KindSpec, versions, PhaseSpec)
	var asked *cancelledError
	if errors.As(err, &asked) && cfg.OnCancel != nil {
		cfg.OnCancel(asked.Cancel)
	}
	if err != nil {
		return nil, PhaseSpec, err
	}
	if j.Spec, err = openSpec(specMAC, specBody); err != nil {
		return nil, PhaseSpec, err
	}
	return j, "", nil
}

func isZero(key []byte) bool { return bytes.Equal(key, make([]byte, len(key))) }

// openWelcome checks the parent's proof, and then the payload.
func openWelcome(key, helloBody, body []byte, ours versionRange) (w welcome, err error) {
	s, err := open(frame.KindWelcome, body)
	if err != nil {
		return w, err
	}
	if err := s.verify(key, labelWelcome, helloBody); err != nil {
		return w, err
	}
	if err := decode(frame.KindWelcome, s.payload, &w); err != nil {
		return w, err
	}
	if err := w.self.check(frame.KindWelcome); err != nil {
		return w, err
	}
	if w.version < ours[0] || w.version > ours[1] {
		return w, &VersionError{Ours: ours, Theirs: [2]uint{w.version, w.version}}
	}
	return w, nil
}

// openSpec checks the MAC of the spec and returns the spec undecoded. mac
// already covers the earlier frames.
func openSpec(mac hash.Hash, body []byte) ([]byte, error) {
	s, err := open(frame.KindSpec, body)
	if err != nil {
		return nil, err
	}
	addPart(mac, s.payload)
	return s.payload, s.compare(mac.Sum(nil))
}

// expectFrame reads the next frame and returns a copy of its body. The frame
// must be of kind want. For a failed frame it returns the error in the frame.
func expectFrame(
	ctx context.Context, ch *transport.Channel, want frame.Kind, ours versionRange, phase Phase,
) ([]byte, error) {
	f, err := frames(ch).Read(ctx)
	switch {
	case err != nil:
		return nil, err
	case f.Kind == want:
		return f.Copy().Body, nil
	case f.Kind == frame.KindFailed:
		return nil, gaveUp(failedError(f.Body, ours, phase))
	case f.Kind == frame.KindCancel && want == frame.KindSpec:
		c, _ := frame.ParseCancel(f.Body) // a malformed request to stop is still one
		return nil, &cancelledError{Cancel(c)}
	}
	return nil, unexpected(f, want)
}

// cancelledError is the error of a spare after a cancel instead of a spec.
type cancelledError struct{ Cancel }

func (e *cancelledError) Error() string { return access.ErrDismissed.Error() + ": " + e.Reason }
func (e *cancelledError) Unwrap() error { return access.ErrDismissed }

// newNonce returns an unpredictable nonce.
func newNonce() []byte {
	b := make([]byte, nonceSize)
	rand.Read(b)
	return b
}

// childNonce returns a unique nonce. It need not be unpredictable, because a
// child's key serves one handshake only. The runtime's generator is seeded by
// the kernel and needs no system call.
func childNonce() []byte {
	b := make([]byte, 0, nonceSize)
	for len(b) < nonceSize {
		b = binary.LittleEndian.AppendUint64(b, mathrand.Uint64())
	}
	return b
}

// Ready reports to the parent that the child is ready. Afterwards the channel
// carries messages. The parent gets value from [Peer.ReadyValue], unless it is nil.
// If value cannot be encoded, nothing is sent.
func (j *Joined) Ready(ctx context.Context, value any) error {
	var msg ready
	if value != nil {
		var b bytes.Buffer
		if err := values.Encode(&b, value); err != nil {
			return &Error{PhaseReady, err}
		}
		msg.value = b.Bytes()
	}
	if j.timings != nil {
		msg.timings = *j.timings
	}
	err := frames(j.Channel).Write(ctx, frame.Frame{Kind: frame.KindReady, Body: msg.encode()})
	if err != nil {
		return &Error{PhaseReady, err}
	}
	// The write has woken the parent. The kernel tends to put the parent on
	// this processor, where it would wait while this process goes on.
	yield()
	return nil
}

// Fail reports to the parent why the child cannot execute its spec, and closes
// the channel. The parent gets a [*FailedError] with the text of reason. It
// matches [ErrUnknownEntry] if reason does, or else [ErrBadSpec] if phase is
// PhaseSpec. phase must be PhaseSpec or PhaseReady.
func (j *Joined) Fail(ctx context.Context, phase Phase, reason error) error {
	code := codeError
	switch {
	case errors.Is(reason, ErrUnknownEntry):
		code = codeUnknownEntry
	case phase == PhaseSpec:
		code = codeBadSpec
	}
	err := frames(j.Channel).Write(ctx, failedFrame(failed{phase, code, reason.Error(), nil}))
	j.Channel.CloseWith(ctx, 1, "")
	if err != nil {
		return &Error{phase, err}
	}
	return nil
}
