package transport

import (
	"errors"
	"strings"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/spawnwire/spawnwire/internal/strictcbor"
)

// Cancel is the body of a KindCancel frame: a request to stop.
type Cancel struct {
	// Reason is for people.
	Reason string `cbor:"reason,omitempty"`
	// Grace is how long the sender waits before it uses force, counted from when the frame arrives;
	// 0 means that it did not say. On the wire it is in nanoseconds.
	Grace time.Duration `cbor:"grace,omitempty"`
}

// Frame encodes the request.
func (c Cancel) Frame() Frame {
	c.Reason = wireText(c.Reason)
	body, err := encodeControl(c)
	if err != nil {
		panic(err) // a string and a number
	}
	return Frame{KindCancel, body}
}

// ParseCancel reads the body of a KindCancel frame. Fields that it does not know are ignored.
func ParseCancel(body []byte) (Cancel, error) {
	var c Cancel
	err := strictcbor.Decode(body, &c)
	if err == nil && c.Grace < 0 {
		err = errors.New("grace is negative")
	}
	if err != nil {
		return Cancel{}, &DecodeError{Type: "a cancel", Size: len(body), Err: err}
	}
	return c, nil
}

// goodbye is the body of a KindGoodbye frame.
type goodbye struct {
	Status *int   `cbor:"status"`
	Reason string `cbor:"reason,omitempty"`
}

// ParseGoodbye reads the body of a KindGoodbye frame. Fields that it does not know are ignored.
func ParseGoodbye(body []byte) (*GoodbyeError, error) {
	var bye goodbye
	err := strictcbor.Decode(body, &bye)
	if err == nil && bye.Status == nil {
		err = errors.New("no status")
	}
	if err != nil {
		return nil, &DecodeError{Type: "a goodbye", Size: len(body), Err: err}
	}
	return &GoodbyeError{Status: *bye.Status, Reason: bye.Reason}, nil
}

// maxReason is how much of a reason is sent, in bytes: the frame matters more than its words.
const maxReason = 4 << 10

// wireText makes a text fit for CBOR, which has UTF-8 only, and for the frame.
func wireText(s string) string {
	return strings.ToValidUTF8(s[:min(len(s), maxReason)], "\uFFFD")
}

func encodeControl(v any) ([]byte, error) { return cbor.Marshal(v) }
