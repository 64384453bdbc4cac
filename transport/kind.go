package transport

import "fmt"

// Kind is the byte that follows a frame's length: what the frame's body is.
type Kind byte

// The kinds of protocol version 1. docs/PROTOCOL.md says what each body holds.
const (
	KindMessage Kind = 0x01 // a user's message: one CBOR item
	KindRaw     Kind = 0x02 // a user's message: bytes that nobody interprets

	KindHello   Kind = 0x10 // handshake: a spawned child says who it is
	KindWelcome Kind = 0x11 // handshake: the parent answers
	KindSpec    Kind = 0x12 // handshake: the child's orders
	KindReady   Kind = 0x13 // handshake: the child took its orders
	KindFailed  Kind = 0x14 // handshake: either side gives up and says why
	KindGreet   Kind = 0x15 // handshake between peers that did not spawn each other
	KindProof   Kind = 0x16 // the same: the proof of the shared key
	KindAttach  Kind = 0x17 // handshake: a child's second connection, for control

	KindCancel  Kind = 0x20 // please stop; see Cancel
	KindGoodbye Kind = 0x21 // the last frame of an orderly close; see GoodbyeError
	KindPing    Kind = 0x22 // asks for a pong with the same body
	KindPong    Kind = 0x23 // answers a ping

	// KindExtension is the first of the kinds that a receiver which does not know them skips.
	KindExtension Kind = 0x80
)

var kindNames = [...]string{
	KindMessage: "message", KindRaw: "raw",
	KindHello: "hello", KindWelcome: "welcome", KindSpec: "spec", KindReady: "ready", KindFailed: "failed",
	KindGreet: "greet", KindProof: "proof", KindAttach: "attach",
	KindCancel: "cancel", KindGoodbye: "goodbye", KindPing: "ping", KindPong: "pong",
}

// String returns the kind's name in the protocol, or its number.
func (k Kind) String() string {
	if int(k) < len(kindNames) && kindNames[k] != "" {
		return kindNames[k]
	}
	return fmt.Sprintf("kind 0x%02x", byte(k))
}

func (k Kind) known() bool { return int(k) < len(kindNames) && kindNames[k] != "" }

// Frame is one frame of the wire: what [Channel.ReadFrame] and [Channel.WriteFrames] carry for
// code that speaks the protocol itself, such as package handshake.
type Frame struct {
	Kind Kind
	Body []byte
}
