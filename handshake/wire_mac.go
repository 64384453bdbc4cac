package handshake

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"

	"github.com/spawnwire/spawnwire/internal/cbor"
	"github.com/spawnwire/spawnwire/internal/frame"
)

const macSize = sha256.Size

// Each purpose of a MAC has its own label, so a MAC for one purpose is not
// valid for another.
const (
	labelHello    = "spawnwire hello"
	labelWelcome  = "spawnwire welcome"
	labelSpec     = "spawnwire spec"
	labelSession  = "spawnwire session"
	labelAttach   = "spawnwire attach"
	labelAttached = "spawnwire attached"
	labelDialer   = "spawnwire proof dialer"
	labelAcceptor = "spawnwire proof acceptor"
)

// mac returns the MAC of label and parts. A valid MAC proves that its sender
// knows the key and has seen the parts.
func mac(key []byte, label string, parts ...[]byte) []byte {
	return startMAC(key, label, parts...).Sum(nil)
}

// startMAC starts a MAC. addPart can add more parts to it.
func startMAC(key []byte, label string, parts ...[]byte) hash.Hash {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(label))
	h.Write([]byte{0})
	for _, p := range parts {
		addPart(h, p)
	}
	return h
}

// addPart adds the length of part, and part. Without the lengths, two different
// lists of parts could have the same MAC.
func addPart(h hash.Hash, part []byte) {
	h.Write(binary.LittleEndian.AppendUint32(nil, uint32(len(part))))
	h.Write(part)
}

// sealed is a message with a MAC. The MAC proves that the sender knows the
// secret.
type sealed struct {
	payload []byte
	mac     []byte
}

// seal returns the body of a sealed message. said holds the bodies of the
// earlier frames.
func seal(key []byte, label string, payload []byte, said ...[]byte) []byte {
	return sealed{payload, mac(key, label, append(said, payload)...)}.encode()
}

func (s sealed) encode() []byte {
	w := cbor.NewWriter(len(s.payload) + len(s.mac) + 8)
	w.Array(2)
	w.Bytes(s.payload)
	w.Bytes(s.mac)
	return w.Encoded()
}

// open reads a sealed message. The caller must call verify before it acts on
// the payload. The result refers to body.
func open(kind frame.Kind, body []byte) (sealed, error) {
	r := cbor.NewReader(body)
	if r.Array() != 2 {
		r.Fail(errors.New("not an array of two"))
	}
	s := sealed{r.Bytes(), r.Bytes()}
	if len(s.mac) != macSize {
		r.Fail(fmt.Errorf("a MAC of %d bytes, want %d", len(s.mac), macSize))
	}
	return s, malformed(kind, r.End())
}

// verify checks the MAC of the payload and of the earlier frames.
func (s sealed) verify(key []byte, label string, said ...[]byte) error {
	return s.compare(mac(key, label, append(said, s.payload)...))
}

// compare checks the MAC. The time it takes does not depend on where the MACs
// differ.
func (s sealed) compare(want []byte) error {
	if !hmac.Equal(s.mac, want) {
		return ErrBadMAC
	}
	return nil
}

// sessionKey returns the key of a child's control connection.
func sessionKey(secret, helloBody, welcomeBody []byte) []byte {
	return mac(secret, labelSession, helloBody, welcomeBody)
}
