package call

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spawnwire/spawnwire/internal/cbor"
	"github.com/spawnwire/spawnwire/internal/frame"
)

// operation is the first byte of a call frame. docs/PROTOCOL-call.md has the
// meaning of each.
type operation byte

const (
	opHello   operation = 1 // the first frame of each side: its limits
	opOpen    operation = 2 // begins a call
	opStarted operation = 3 // the callee has accepted the call, with a value
	opData    operation = 4 // a message of a call, or a part of one
	opCredit  operation = 5 // how much the receiver may send on a call
	opCancel  operation = 6 // the caller asks the callee to end the call
	opResult  operation = 7 // the call has ended
	opGoAway  operation = 8 // the sender takes no new calls

	// opExtension is the first of the operations that a receiver ignores if it
	// does not know them.
	opExtension operation = 0x80
)

var operationNames = [...]string{
	opHello: "hello", opOpen: "open", opStarted: "started", opData: "data",
	opCredit: "credit", opCancel: "cancel", opResult: "result", opGoAway: "go-away",
}

func (o operation) String() string {
	if int(o) < len(operationNames) && o != 0 {
		return operationNames[o]
	}
	return fmt.Sprintf("operation %#02x", byte(o))
}

// flags is the second byte of a call frame.
type flags byte

const (
	flagCaller flags = 1 << iota // the sender of the frame opened the call
	flagValue                    // the body ends with a message, or a part of one
	flagMore                     // the message continues in the next opData
	flagEnd                      // the sender sends no more messages on the call
	flagError                    // the result is an error
)

func (f flags) has(other flags) bool { return f&other != 0 }

// flagsOf has the flags that an operation may have. Those of the call's caller and
// callee are checked apart.
var flagsOf = [...]flags{
	opOpen: flagCaller | flagValue | flagEnd, opStarted: flagValue,
	opData: flagCaller | flagValue | flagMore | flagEnd, opCredit: flagCaller,
	opCancel: flagCaller, opResult: flagValue | flagError, opHello: 0, opGoAway: 0,
}

const (
	headSize  = 8                           // of a call frame: operation, flags, id
	bodyStart = frame.HeaderSize + headSize // the length of both headers
	maxID     = 1<<48 - 1
)

// head is the fixed beginning of a call frame.
type head struct {
	op    operation
	flags flags
	id    uint64 // of the call among those of its caller; 0 if the frame is of no call
}

func (h head) has(f flags) bool { return h.flags.has(f) }

// putHead writes both headers of a call frame into encoded, which is the whole
// frame.
func putHead(encoded []byte, h head) {
	frame.PutHeader(encoded, frame.KindCall, len(encoded)-frame.HeaderSize)
	binary.LittleEndian.PutUint64(encoded[frame.HeaderSize:],
		h.id<<16|uint64(h.flags)<<8|uint64(h.op))
}

// appendFrame appends a whole call frame with the body to b.
func appendFrame(b []byte, h head, body ...[]byte) []byte {
	start := len(b)
	b = append(b, make([]byte, bodyStart)...)
	for _, part := range body {
		b = append(b, part...)
	}
	putHead(b[start:], h)
	return b
}

// parseHead splits the body of a frame of kind call, and checks its head.
func parseHead(data []byte) (h head, body []byte, err error) {
	if len(data) < headSize {
		return head{}, nil, fmt.Errorf("a call frame of %d bytes", len(data))
	}
	all := binary.LittleEndian.Uint64(data)
	h = head{operation(all), flags(all >> 8), all >> 16}
	switch {
	case h.op >= opExtension:
		return h, data[headSize:], nil
	case h.op == 0 || int(h.op) >= len(flagsOf):
		err = fmt.Errorf("unknown %v", h.op)
	case h.flags&^flagsOf[h.op] != 0:
		err = fmt.Errorf("%v with flags %#x", h.op, h.flags)
	case (h.id == 0) != (h.op == opHello || h.op == opGoAway):
		err = fmt.Errorf("%v with id %d", h.op, h.id)
	case (h.op == opOpen || h.op == opCancel) && !h.has(flagCaller):
		err = fmt.Errorf("%v from a callee", h.op)
	case h.has(flagMore) && !h.has(flagValue), h.has(flagMore) && h.has(flagEnd),
		h.has(flagError) && h.has(flagValue):
		err = fmt.Errorf("%v with flags %#x together", h.op, h.flags)
	}
	return h, data[headSize:], err
}

// hello has the limits of its sender.
type hello struct {
	calls   uint64 // how many calls of the peer it runs at a time
	window  uint64 // the credit of each direction of a call at its beginning
	message uint64 // the largest message that it receives, in bytes
}

const version = 1

func (h hello) encode() []byte {
	var w cbor.Writer
	w.Map(func() {
		w.Key("versions")
		w.Array(2)
		w.Uint(version)
		w.Uint(version)
		w.Key("calls")
		w.Uint(h.calls)
		w.Key("window")
		w.Uint(h.window)
		w.Key("message")
		w.Uint(h.message)
	})
	return w.Encoded()
}

// minWindow is the least window of a hello. A small message always fits it.
const minWindow = 4 << 10

func parseHello(body []byte) (h hello, err error) {
	var least, most uint64
	r := cbor.NewReader(body)
	r.Map(func(key []byte) bool {
		switch string(key) {
		case "versions":
			if n := r.Array(); n != 2 {
				r.Fail(fmt.Errorf("an array of %d numbers; want 2", n))
			}
			least, most = r.Uint(1, 1<<31), r.Uint(1, 1<<31)
		case "calls":
			h.calls = r.Uint(0, 1<<31)
		case "window":
			h.window = r.Uint(minWindow, 1<<31)
		case "message":
			h.message = r.Uint(1, 1<<31)
		default:
			return false
		}
		return true
	})
	if err := r.End(); err != nil {
		return hello{}, err
	}
	switch {
	case least > version || most < version:
		return hello{}, fmt.Errorf("versions %d to %d of calls; this side has %d", least, most,
			version)
	case h.window == 0 || h.message == 0:
		return hello{}, errors.New("a hello without limits")
	}
	return h, nil
}

// opening is the body of an open frame.
type opening struct {
	timeout  time.Duration // the time that remains; 0 is no limit
	method   string
	metadata []byte // encoded
	value    []byte // a message, if the frame has one
}

// openSize is the fixed part of an opening: the time and both lengths.
const openSize = 8 + 1 + 2

const maxMethod = 255 // bytes of a method's name

func (o *opening) appendTo(b *bytes.Buffer) {
	var fixed [openSize]byte
	binary.LittleEndian.PutUint64(fixed[:], uint64(o.timeout))
	fixed[8] = byte(len(o.method))
	b.Write(fixed[:9])
	b.WriteString(o.method)
	binary.LittleEndian.PutUint16(fixed[9:], uint16(len(o.metadata)))
	b.Write(fixed[9:])
	b.Write(o.metadata)
}

func parseOpening(body []byte) (o opening, method []byte, err error) {
	short := func() (opening, []byte, error) {
		return opening{}, nil, fmt.Errorf("an open frame that is cut: %w", io.ErrUnexpectedEOF)
	}
	if len(body) < openSize {
		return short()
	}
	o.timeout = time.Duration(binary.LittleEndian.Uint64(body))
	n := int(body[8])
	if o.timeout < 0 || n == 0 {
		return opening{}, nil, errors.New("an open frame with a negative time or without a method")
	}
	if body = body[9:]; len(body) < n+2 {
		return short()
	}
	method, body = body[:n], body[n:]
	n = int(binary.LittleEndian.Uint16(body))
	if body = body[2:]; len(body) < n {
		return short()
	}
	if n > maxMetadata {
		return opening{}, nil, fmt.Errorf("%d bytes of metadata; the limit is %d", n, maxMetadata)
	}
	o.metadata, o.value = body[:n], body[n:]
	return o, method, nil
}

// cancellation is the body of a cancel frame.
type cancellation struct {
	code   Code   // CodeCanceled or CodeDeadline
	by     string // the process that cancelled first
	reason string // for people
}

func (c cancellation) encode() []byte {
	var w cbor.Writer
	w.Map(func() {
		w.TextField("code", string(c.code))
		w.OptionalText("by", frame.Text(c.by, maxText))
		w.OptionalText("reason", frame.Text(c.reason, maxText))
	})
	return w.Encoded()
}

func parseCancellation(body []byte) (c cancellation, err error) {
	r := cbor.NewReader(body)
	r.Map(func(key []byte) bool {
		switch string(key) {
		case "code":
			c.code = Code(r.Text())
		case "by":
			c.by = r.Text()
		case "reason":
			c.reason = r.Text()
		default:
			return false
		}
		return true
	})
	return c, r.End()
}

const (
	maxText  = 4 << 10  // bytes of an error's text
	maxStack = 16 << 10 // and of a panic's stack
	maxHops  = 32       // elements of an error's path, and of its matches
)
