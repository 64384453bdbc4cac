package handshake

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/spawnwire/spawnwire/internal/strictcbor"
	"github.com/spawnwire/spawnwire/transport"
)

// PreAuthLimit is the largest frame, in bytes, that either side reads before it knows the other.
const PreAuthLimit = 64 << 10

// FeatureControl is the feature of a child that opens a second connection, on which it listens for
// its parent's cancel while it is busy or has other messages queued.
const FeatureControl = "control"

// hello is a child's first message.
type hello struct {
	Versions Range      `cbor:"versions"`
	ID       string     `cbor:"id"`
	Name     string     `cbor:"name"`
	PID      int        `cbor:"pid"`
	Nonce    byteString `cbor:"nonce"`
	Features []string   `cbor:"features,omitempty"`
}

// welcome is the parent's answer.
type welcome struct {
	Version  uint       `cbor:"version"`
	ID       string     `cbor:"id"`
	Name     string     `cbor:"name"`
	PID      int        `cbor:"pid"`
	Nonce    byteString `cbor:"nonce"`
	Features []string   `cbor:"features,omitempty"`
}

// attach is the first message on a child's control connection.
type attach struct {
	ID    string     `cbor:"id"`
	Nonce byteString `cbor:"nonce"`
}

// greet is the first message of a peer that nobody spawned.
type greet struct {
	Versions Range      `cbor:"versions"`
	ID       string     `cbor:"id"`
	Name     string     `cbor:"name"`
	PID      int        `cbor:"pid"`
	Nonce    byteString `cbor:"nonce"`
	Auth     string     `cbor:"auth"`
	Features []string   `cbor:"features,omitempty"`
}

// failed is either side's last message when it gives up.
type failed struct {
	Phase    Phase  `cbor:"phase"`
	Code     string `cbor:"code"`
	Text     string `cbor:"error"`
	Versions *Range `cbor:"versions,omitempty"` // with CodeVersion: what the sender speaks
}

// ready is the child's answer to its spec.
type ready struct {
	Timings Timings `cbor:"timings"`
}

// Timings are moments in a child's start, in nanoseconds of its host's CLOCK_MONOTONIC; 0 is unknown.
type Timings struct {
	Init      int64 `cbor:"init,omitempty"`      // the first of this library's package inits ran
	Main      int64 `cbor:"main,omitempty"`      // package inits are done, the program asked to join
	Connected int64 `cbor:"connected,omitempty"` // the connection is made
	Accepted  int64 `cbor:"accepted,omitempty"`  // welcome and spec have come and were found good
}

// sealed is a message with a proof that its sender knows the secret.
type sealed struct {
	Payload []byte
	MAC     []byte
}

const (
	nonceSize = 32
	macSize   = sha256.Size
)

// decode decodes the body, or the payload, of a message.
func decode(kind transport.Kind, body []byte, v any) error {
	if err := strictcbor.Decode(body, v); err != nil {
		// Some of the library's errors quote what a stranger sent.
		return fmt.Errorf("%w: %s: %s", transport.ErrProtocol, kind, cut(err.Error(), maxReason))
	}
	return nil
}

// byteString is a CBOR byte string and nothing else: for a []byte the library takes an array of numbers
// too.
type byteString []byte

func (b *byteString) UnmarshalCBOR(data []byte) error {
	r := cborReader(data)
	s, ok := r.bytes()
	if !ok {
		return errors.New("not a byte string")
	}
	*b = bytes.Clone(s)
	return nil
}

// maxReason bounds what an error says of bytes that cannot be decoded, in bytes.
const maxReason = 200

// The labels keep a proof made for one purpose from being used for another.
const (
	labelHello    = "spawnwire hello"
	labelWelcome  = "spawnwire welcome"
	labelSpec     = "spawnwire spec"
	labelSession  = "spawnwire session"
	labelAttach   = "spawnwire attach"
	labelDialer   = "spawnwire proof dialer"
	labelAcceptor = "spawnwire proof acceptor"
)

// seal returns the body of a sealed message. said is all that was said before, each frame's body.
func seal(key []byte, label string, payload []byte, said ...[]byte) []byte {
	return sealed{Payload: payload, MAC: mac(key, label, append(said, payload)...)}.encode()
}

// open reads the outer form of a sealed message; verify must follow before anything is believed. What it
// returns lies in body.
func open(kind transport.Kind, body []byte) (sealed, error) {
	r := cborReader(body)
	if n, ok := r.head(majorArray); !ok || n != 2 {
		return sealed{}, fmt.Errorf("%w: %s: not an array of two", transport.ErrProtocol, kind)
	}
	payload, ok := r.bytes()
	if !ok {
		return sealed{}, fmt.Errorf("%w: %s: the payload is not a whole byte string", transport.ErrProtocol, kind)
	}
	mac, ok := r.bytes()
	if !ok || len(mac) != macSize {
		return sealed{}, fmt.Errorf("%w: %s: the MAC is not a byte string of %d", transport.ErrProtocol, kind, macSize)
	}
	if len(r) > 0 {
		return sealed{}, fmt.Errorf("%w: %s: %d bytes too many", transport.ErrProtocol, kind, len(r))
	}
	return sealed{payload, mac}, nil
}

// sessionKey returns the key of a child's control connection.
func sessionKey(secret, hello, welcome []byte) *Secret {
	sum := mac(secret, labelSession, hello, welcome)
	defer clear(sum)
	key := Secret(sum)
	return &key
}

// verify checks the proof in constant time.
func (s sealed) verify(key []byte, label string, said ...[]byte) error {
	return s.verifySum(mac(key, label, append(said, s.Payload)...))
}

func (s sealed) verifySum(sum []byte) error {
	if !hmac.Equal(s.MAC, sum) {
		return ErrBadMAC
	}
	return nil
}

// checkPeer checks what each process says of itself.
func checkPeer(kind transport.Kind, id, name string, pid int, nonce []byte, features []string) error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s: %s", transport.ErrProtocol, kind, fmt.Sprintf(format, args...))
	}
	if err := checkID(id); err != nil {
		return bad("%v", err)
	}
	if len(name) > maxName {
		return bad("a name of %d bytes, the limit is %d", len(name), maxName)
	}
	if pid < 0 || pid > maxPID {
		return bad("pid %d", pid)
	}
	if len(nonce) != nonceSize {
		return bad("a nonce of %d bytes, want %d", len(nonce), nonceSize)
	}
	for _, f := range features {
		if f == "" || len(f) > maxID {
			return bad("a feature's name of %d bytes, want 1 to %d", len(f), maxID)
		}
	}
	return nil
}

// check checks what a child says of itself.
func (h hello) check() error {
	if !h.Versions.valid() {
		return fmt.Errorf("%w: %s: versions %s", transport.ErrProtocol, transport.KindHello, h.Versions)
	}
	return checkPeer(transport.KindHello, h.ID, h.Name, h.PID, h.Nonce, h.Features)
}

// check checks what a peer says of itself.
func (g greet) check() error {
	if !g.Versions.valid() {
		return fmt.Errorf("%w: %s: versions %s", transport.ErrProtocol, transport.KindGreet, g.Versions)
	}
	return checkPeer(transport.KindGreet, g.ID, g.Name, g.PID, g.Nonce, g.Features)
}

// decodeReady decodes a child's answer and checks it.
func decodeReady(body []byte) (r ready, err error) {
	if r, ok := plainReady(body); ok {
		return r, nil
	}
	if err := decode(transport.KindReady, body, &r); err != nil {
		return r, err
	}
	if t := r.Timings; min(t.Init, t.Main, t.Connected, t.Accepted) < 0 {
		return r, fmt.Errorf("%w: %s: a negative time", transport.ErrProtocol, transport.KindReady)
	}
	return r, nil
}

// plainReady decodes an answer that has nothing but what encode writes. Spawn waits for it, and the library takes its time where it
// has not run for a while.
func plainReady(body []byte) (r ready, ok bool) {
	c := cborReader(body)
	pairs, ok := c.head(majorMap)
	key, named := c.text()
	times, there := c.head(majorMap)
	if !ok || pairs != 1 || !named || string(key) != "timings" || !there {
		return ready{}, false
	}
	for range times {
		key, _ := c.text()
		at, ok := c.head(majorUint)
		var moment *int64
		switch string(key) {
		case "init":
			moment = &r.Timings.Init
		case "main":
			moment = &r.Timings.Main
		case "connected":
			moment = &r.Timings.Connected
		case "accepted":
			moment = &r.Timings.Accepted
		}
		if !ok || moment == nil || *moment != 0 || at == 0 || at > math.MaxInt64 {
			return ready{}, false
		}
		*moment = int64(at)
	}
	return r, len(c) == 0
}

// decodeAttach decodes the payload of an attach and checks it.
func decodeAttach(payload []byte) (a attach, err error) {
	if err := decode(transport.KindAttach, payload, &a); err != nil {
		return a, err
	}
	return a, checkPeer(transport.KindAttach, a.ID, "", 0, a.Nonce, nil)
}

// failedError turns the body of a failed frame, which came in the given phase, into the error that it
// stands for. Whoever sent it may be a stranger.
func failedError(body []byte, ours Range, phase Phase) error {
	var f failed
	if err := decode(transport.KindFailed, body, &f); err != nil {
		return err
	}
	if f.Versions != nil && !f.Versions.valid() {
		return fmt.Errorf("%w: %s: versions %s", transport.ErrProtocol, transport.KindFailed, *f.Versions)
	}
	if f.Code == CodeVersion && f.Versions != nil {
		return &VersionError{Ours: ours, Theirs: *f.Versions}
	}
	if !slices.Contains(phases, f.Phase) {
		f.Phase = phase
	}
	switch f.Code {
	case CodeRefused, CodeVersion, CodeUnknownEntry, CodeBadSpec:
	default:
		f.Code = CodeError
	}
	return &FailedError{Phase: f.Phase, Code: f.Code, Text: cut(f.Text, maxFailedText)}
}

// cut makes a text fit for the wire: UTF-8, of at most size bytes, cut between two characters.
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
