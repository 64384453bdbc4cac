package frame

import (
	"errors"
	"strings"
	"time"

	"github.com/spawnwire/spawnwire/internal/cbor"
)

// Cancel is the content of a cancel frame: a request to stop.
type Cancel struct {
	Reason string // for people

	// Grace is how long the sender waits before it uses force, counted from
	// the frame's arrival. 0 means that the sender set no time.
	Grace time.Duration
}

// Frame encodes the request. It cuts a Reason of more than 4 KiB.
func (c Cancel) Frame() Frame {
	var w cbor.Writer
	w.Map(func() {
		w.OptionalText("reason", wireText(c.Reason))
		w.OptionalInt("grace", int64(c.Grace)) // nanoseconds
	})
	return Frame{KindCancel, w.Encoded()}
}

// ParseCancel decodes the body of a cancel frame. It ignores unknown fields.
func ParseCancel(body []byte) (Cancel, error) {
	var c Cancel
	r := cbor.NewReader(body)
	r.Map(func(key []byte) bool {
		switch string(key) {
		case "reason":
			c.Reason = r.Text()
		case "grace":
			c.Grace = time.Duration(r.Nanoseconds())
		default:
			return false
		}
		return true
	})
	if err := r.End(); err != nil {
		return Cancel{}, err
	}
	return c, nil
}

// Goodbye is the content of a goodbye frame.
type Goodbye struct {
	Status int
	Reason string
}

// Frame encodes the goodbye. It cuts a Reason of more than 4 KiB.
func (g Goodbye) Frame() Frame {
	var w cbor.Writer
	w.Map(func() {
		w.IntField("status", int64(g.Status))
		w.OptionalText("reason", wireText(g.Reason))
	})
	return Frame{KindGoodbye, w.Encoded()}
}

// ParseGoodbye decodes the body of a goodbye frame. It ignores unknown fields.
func ParseGoodbye(body []byte) (Goodbye, error) {
	var g Goodbye
	hasStatus := false
	r := cbor.NewReader(body)
	r.Map(func(key []byte) bool {
		switch string(key) {
		case "status":
			g.Status, hasStatus = int(r.Int()), true
		case "reason":
			g.Reason = r.Text()
		default:
			return false
		}
		return true
	})
	if !hasStatus {
		r.Fail(errors.New("no status"))
	}
	if err := r.End(); err != nil {
		return Goodbye{}, err
	}
	return g, nil
}

// maxReason is the most that is sent of a reason, in bytes.
const maxReason = 4 << 10

// wireText is Text for a reason.
func wireText(s string) string { return Text(s, maxReason) }

// Text returns at most the first bytes of s, as valid UTF-8 for CBOR.
func Text(s string, most int) string {
	return strings.ToValidUTF8(s[:min(len(s), most)], "\uFFFD")
}
