package handshake

import (
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/spawnwire/spawnwire/internal/access"
	"github.com/spawnwire/spawnwire/internal/frame"
	"github.com/spawnwire/spawnwire/internal/progname"
	"github.com/spawnwire/spawnwire/transport"
)

// featureControl announces a control connection. The child gets its parent's
// cancel there even while it is busy or has other messages queued.
const featureControl = "control"

// featureInspect announces that the child answers inspections on its control
// connection, see docs/PROTOCOL-inspect.md.
const featureInspect = "inspect"

// featureShare announces that large messages may travel through shared memory, see
// docs/PROTOCOL-shm.md.
const featureShare = "shm/1"

// featureRing announces that all messages may travel through a ring in shared memory. It
// needs featureShare.
const featureRing = "ring/1"

// ourFeatures are the features of this implementation.
var ourFeatures = []string{featureControl, featureInspect, featureShare, featureRing}

// features returns the names of the chosen ones of ourFeatures.
func features(control, inspect, share, ring bool) (names []string) {
	for i, chosen := range []bool{control, inspect, share, ring} {
		if chosen {
			names = append(names, ourFeatures[i])
		}
	}
	return names
}

// share begins what both sides have agreed on.
func share(ch *transport.Channel, agreed []string) {
	if !slices.Contains(agreed, featureShare) {
		return
	}
	frames(ch).Share()
	if slices.Contains(agreed, featureRing) {
		frames(ch).UseRing()
	}
}

// Limits on the fields of self. Lengths are in bytes.
const (
	maxID     = 64
	maxName   = 256
	maxPID    = math.MaxInt32
	nonceSize = 32
)

// self holds the fields that identify the sender of a hello, welcome or greet.
type self struct {
	Identity
	nonce    []byte
	features []string
}

// hello is a child's first message.
type hello struct {
	versions versionRange
	self
}

// welcome is the parent's answer to a hello.
type welcome struct {
	version uint
	self
	limit int // the parent's frame limit, in bytes; 0 is the default
}

// attach is the first message on a child's control connection.
type attach struct {
	id    string
	nonce []byte
}

// attached is the parent's answer to an attach. It has no fields yet.
type attached struct{}

// greet is the first message between peers.
type greet struct {
	versions versionRange
	self
	auth string
}

// failed is the message with which a side ends the handshake.
type failed struct {
	phase    Phase
	code     string
	text     string
	versions *versionRange // with codeVersion: the versions of the sender
}

// ready is the child's answer to its spec.
type ready struct {
	timings access.Timings
	value   []byte // an encoded value of the program's own, or nil
}

// check returns an error if a field is missing or breaks a limit.
func (s *self) check(kind frame.Kind) error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s: %s", transport.ErrProtocol, kind, fmt.Sprintf(format, args...))
	}
	if err := checkID(s.ID); err != nil {
		return bad("%v", err)
	}
	if len(s.Name) > maxName {
		return bad("a name of %d bytes, the limit is %d", len(s.Name), maxName)
	}
	if s.PID < 0 || s.PID > maxPID {
		return bad("pid %d", s.PID)
	}
	if len(s.nonce) != nonceSize {
		return bad("a nonce of %d bytes, want %d", len(s.nonce), nonceSize)
	}
	for _, f := range s.features {
		if f == "" || len(f) > maxID {
			return bad("a feature's name of %d bytes, want 1 to %d", len(f), maxID)
		}
	}
	return nil
}

// decodeHello decodes the payload of a hello and checks it.
func decodeHello(payload []byte) (h hello, err error) {
	if err := decode(frame.KindHello, payload, &h); err != nil {
		return h, err
	}
	if err := checkVersions(frame.KindHello, h.versions); err != nil {
		return h, err
	}
	return h, h.self.check(frame.KindHello)
}

// decodeGreet decodes a greet and checks it.
func decodeGreet(body []byte) (g greet, err error) {
	if err := decode(frame.KindGreet, body, &g); err != nil {
		return g, err
	}
	if err := checkVersions(frame.KindGreet, g.versions); err != nil {
		return g, err
	}
	return g, g.self.check(frame.KindGreet)
}

// decodeAttach decodes the payload of an attach and checks it.
func decodeAttach(payload []byte) (a attach, err error) {
	if err := decode(frame.KindAttach, payload, &a); err != nil {
		return a, err
	}
	s := self{Identity{ID: a.id}, a.nonce, nil}
	return a, s.check(frame.KindAttach)
}

func checkVersions(kind frame.Kind, r versionRange) error {
	if !r.valid() {
		return fmt.Errorf("%w: %s: versions %s", transport.ErrProtocol, kind, r)
	}
	return nil
}

// failedError returns the error that the body of a failed frame reports. phase
// is the phase of this side; it replaces an unknown phase of the frame. The
// sender may be an unauthenticated client.
func failedError(body []byte, ours versionRange, phase Phase) error {
	var f failed
	if err := decode(frame.KindFailed, body, &f); err != nil {
		return err
	}
	if f.versions != nil {
		if err := checkVersions(frame.KindFailed, *f.versions); err != nil {
			return err
		}
		if f.code == codeVersion {
			return &VersionError{Ours: ours, Theirs: *f.versions}
		}
	}
	if !slices.Contains(phases, f.phase) {
		f.phase = phase
	}
	switch f.code {
	case codeRefused, codeVersion, codeUnknownEntry, codeBadSpec:
	default:
		f.code = codeError
	}
	return &FailedError{Phase: f.phase, Text: cut(f.text, maxFailedText), code: f.code}
}

// gaveUpError is the error in a failed frame of the other side. This side does not
// answer it.
type gaveUpError struct{ error }

func (e *gaveUpError) Unwrap() error { return e.error }

// gaveUp returns the error of failedError as a gaveUpError, unless the frame was
// malformed.
func gaveUp(err error) error {
	if errors.Is(err, transport.ErrProtocol) {
		return err
	}
	return &gaveUpError{err}
}

func failedFrame(f failed) frame.Frame {
	f.text = cut(f.text, maxFailedText)
	return frame.Frame{Kind: frame.KindFailed, Body: f.encode()}
}

// refusal returns the answer to every rejected client. It gives no reason,
// because a reason would help a client to guess.
func refusal(phase Phase) frame.Frame {
	return failedFrame(failed{phase, codeRefused, "not accepted", nil})
}

// unexpected returns the error for a frame of the wrong kind.
func unexpected(f frame.Frame, want frame.Kind) error {
	return fmt.Errorf("%w: a %s frame where %s belongs", transport.ErrProtocol, f.Kind, want)
}

// cut returns s as valid UTF-8 of at most size bytes. It does not split a
// character.
func cut(s string, size int) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= size {
		return s
	}
	for size > 0 && !utf8.RuneStart(s[size]) {
		size--
	}
	return s[:size]
}

// thisProcess fills in the empty fields of i for this process, and shortens a
// name above maxName.
func thisProcess(i Identity) Identity {
	if i.ID == "" {
		i.ID = NewID()
	}
	if i.Name == "" && len(os.Args) > 0 {
		i.Name = progname.Name()
	}
	i.Name = cut(i.Name, maxName)
	if i.PID == 0 {
		i.PID = os.Getpid()
	}
	return i
}

// checkIdentity returns an error if the other side would reject the pid or the
// id.
func checkIdentity(i Identity) error {
	if i.PID < 0 || i.PID > maxPID {
		return fmt.Errorf("pid %d", i.PID)
	}
	return checkID(i.ID)
}

func checkID(id string) error {
	if id == "" || len(id) > maxID {
		return fmt.Errorf("an id of %d bytes, want 1 to %d", len(id), maxID)
	}
	for _, r := range []byte(id) {
		if r <= ' ' || r > '~' {
			return fmt.Errorf("an id with a character that is not printable ASCII, or a space")
		}
	}
	return nil
}
