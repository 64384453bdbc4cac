// Package frame describes the frames of the protocol: their kinds, and the
// bodies of the two frames that transport and handshake both read.
// docs/PROTOCOL.md is the specification.
package frame

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"time"
)

// Kind is the byte after a frame's length. It gives the meaning of the body.
type Kind byte

// The kinds of protocol version 1.
const (
	KindMessage Kind = 0x01 // a user's message: one CBOR item
	KindRaw     Kind = 0x02 // a user's message: plain bytes
	KindCall    Kind = 0x03 // a part of a call; docs/PROTOCOL-call.md has its body

	// With the feature shm/1 only; docs/PROTOCOL-shm.md has their bodies.
	KindMemory        Kind = 0x04 // the sender's shared memory comes with this frame
	KindSharedMessage Kind = 0x05 // a user's message of one CBOR item, in shared memory
	KindSharedRaw     Kind = 0x06 // a user's message of plain bytes, in shared memory

	// With the feature ring/1 only.
	KindRing  Kind = 0x07 // the sender's ring comes with this frame
	KindEnter Kind = 0x08 // the last frame on the socket; the sender goes on in its ring

	KindHello   Kind = 0x10 // handshake: a child names itself
	KindWelcome Kind = 0x11 // handshake: the parent answers
	KindSpec    Kind = 0x12 // handshake: the child's spec
	KindReady   Kind = 0x13 // handshake: the child accepts its spec
	KindFailed  Kind = 0x14 // handshake: one side ends it and gives the reason
	KindGreet   Kind = 0x15 // handshake between peers
	KindProof   Kind = 0x16 // handshake between peers: the proof of the shared key
	KindAttach  Kind = 0x17 // handshake: a child's control connection

	// KindAttached is the parent's answer to an attach.
	KindAttached Kind = 0x18

	KindCancel  Kind = 0x20 // a request to stop, see Cancel
	KindGoodbye Kind = 0x21 // the last frame of an orderly close, see Goodbye
	KindPing    Kind = 0x22 // asks for a pong with the same body
	KindPong    Kind = 0x23 // answers a ping

	KindInspect   Kind = 0x24 // a parent's question about a child, see Inspect
	KindInspected Kind = 0x25 // a part of the answer, see Inspected

	// KindExtension is the first of the kinds that a receiver skips if it
	// does not know them.
	KindExtension Kind = 0x80
)

// MaxPing is the largest body of a ping, in bytes.
const MaxPing = 64

var kindNames = [...]string{
	KindMessage: "message", KindRaw: "raw", KindCall: "call",
	KindMemory: "memory", KindSharedMessage: "shared-message", KindSharedRaw: "shared-raw",
	KindRing: "ring", KindEnter: "enter",
	KindHello: "hello", KindWelcome: "welcome", KindSpec: "spec",
	KindReady: "ready", KindFailed: "failed",
	KindGreet: "greet", KindProof: "proof", KindAttach: "attach",
	KindAttached: "attached",
	KindCancel:   "cancel", KindGoodbye: "goodbye", KindPing: "ping", KindPong: "pong",
	KindInspect: "inspect", KindInspected: "inspected",
}

// String returns the kind's name in the protocol, or its number.
func (k Kind) String() string {
	if k.Known() {
		return kindNames[k]
	}
	return fmt.Sprintf("kind 0x%02x", byte(k))
}

// Known reports whether k is a kind of protocol version 1.
func (k Kind) Known() bool { return int(k) < len(kindNames) && kindNames[k] != "" }

// Shares reports whether k is a kind of the feature shm/1 or ring/1.
func (k Kind) Shares() bool { return k >= KindMemory && k <= KindEnter }

// Frame is one frame: a kind and a body.
type Frame struct {
	Kind Kind
	Body []byte
}

// Copy returns a copy of the frame. Small copies have one capacity, because the
// first allocation of a new size takes some microseconds, and Spawn waits while
// a spare receives its first spec.
func (f Frame) Copy() Frame {
	const small = 256
	f.Body = append(make([]byte, 0, max(small, len(f.Body))), f.Body...)
	return f
}

// Channel reads and writes the frames of a transport.Channel. Its method Frames
// returns one. The errors are those of the Channel's own methods.
type Channel interface {
	// Read receives the next frame of a known kind and handles none. It skips
	// extension frames, but at most MaxFrameSize bytes of them in a row. The
	// body is valid until the next receive.
	Read(context.Context) (Frame, error)

	// Next receives the next message or call frame. It handles control frames
	// before it, as the Channel's own receives do. The body is valid until the
	// next receive. more reports whether another whole frame has arrived. The
	// error is ErrWoken after a Wake.
	Next(context.Context) (f Frame, more bool, err error)

	// Wake makes a Next that waits return ErrWoken. If none waits, the next one
	// that would wait does. Any goroutine may call it. Other receives must not run.
	Wake()

	// Write sends the frames in one write.
	Write(context.Context, ...Frame) error

	// Start sends encoded, which has whole frames with their headers, as far as
	// this is possible without waiting. If rest is not nil, the sender must call
	// rest.Finish, and encoded must not change before that returns.
	Start(encoded []byte) (rest Pending, err error)

	// SetMaxSize changes the Channel's MaxFrameSize for all later frames.
	// 0 means transport.DefaultMaxFrameSize.
	SetMaxSize(bytes int)

	// CanShare reports whether the connection can carry shared memory: it is a Unix
	// socket on Linux.
	CanShare() bool

	// Share lets large messages travel through shared memory, because both sides
	// have agreed on it (docs/PROTOCOL-shm.md). It must be called at most once, before
	// the peer can send such messages, and while nothing else uses the Channel.
	Share()

	// UseRing lets all messages travel through a ring, because both sides have agreed
	// on it. It must be called after Share, as that is.
	UseRing()

	// SetDeadAfter changes Config.DeadAfter of package transport.
	SetDeadAfter(time.Duration)

	// LetGo ends the sending direction, because the peer closes its connection
	// and waits for this. A receive of the peer's goodbye does the same.
	LetGo()

	// Take ends the channel and returns its connection, and the bytes that the
	// channel has read ahead. It fails during a send, and while a message waits.
	Take(context.Context) (conn net.Conn, ahead []byte, err error)

	// OnCancel sets what the Channel's receives call when the peer sends a
	// request to stop. It must be called before the first receive. f must not
	// block or receive. Without it the Channel ignores such requests.
	OnCancel(f func(Cancel))
}

// ErrWoken is the error of a Next that Wake has ended.
var ErrWoken = errors.New("woken")

// Pending is a send that Start has begun.
type Pending interface {
	// Finish sends the rest, and returns when the kernel has everything or the
	// channel has failed.
	Finish() error
}

// HeaderSize is the size of a frame's header: its length and its kind.
const HeaderSize = 5

// PutHeader writes the header of a frame into b. The frame's body has size bytes.
func PutHeader(b []byte, kind Kind, size int) {
	binary.LittleEndian.PutUint32(b, uint32(size+1))
	b[HeaderSize-1] = byte(kind)
}
