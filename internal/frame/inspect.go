package frame

import (
	"errors"
	"math"
	"time"

	"github.com/spawnwire/spawnwire/internal/cbor"
)

// Limits of inspections; docs/PROTOCOL-inspect.md has the reasons.
const (
	MaxInspections = 8        // unanswered frames of a parent
	MaxPart        = 16 << 10 // bytes of the answer in a frame
	MaxInspectPath = 32       // processes on the way to the one that is asked
)

// Inspect is a parent's question about a child, or about a process below it. With an
// empty What it asks for the next part of an answer.
type Inspect struct {
	ID    uint64
	What  string        // "tree", "stacks" or "profile"
	Bound time.Duration // for the answer, from the arrival of the question
	Path  []string      // the ids of the processes from the child's child on
	Name  string        // of a profile
	Time  time.Duration // of a profile that takes one
}

// Frame encodes the question.
func (q Inspect) Frame() Frame {
	var w cbor.Writer
	w.Map(func() {
		w.Key("id")
		w.Uint(q.ID)
		w.OptionalText("what", q.What)
		w.OptionalInt("bound", int64(q.Bound))
		if len(q.Path) > 0 {
			w.Key("path")
			w.Array(len(q.Path))
			for _, id := range q.Path {
				w.Text(id)
			}
		}
		w.OptionalText("name", q.Name)
		w.OptionalInt("time", int64(q.Time))
	})
	return Frame{KindInspect, w.Encoded()}
}

// ParseInspect decodes the body of an inspect frame. It ignores unknown fields.
func ParseInspect(body []byte) (q Inspect, err error) {
	hasID := false
	r := cbor.NewReader(body)
	r.Map(func(key []byte) bool {
		switch string(key) {
		case "id":
			q.ID, hasID = r.Uint(0, math.MaxUint64), true
		case "what":
			q.What = r.Text()
		case "bound":
			q.Bound = time.Duration(r.Nanoseconds())
		case "path":
			q.Path = r.Texts()
		case "name":
			q.Name = r.Text()
		case "time":
			q.Time = time.Duration(r.Nanoseconds())
		default:
			return false
		}
		return true
	})
	return q, endWithID(r, hasID)
}

// Inspected is a part of an answer.
type Inspected struct {
	ID    uint64
	Part  []byte
	Left  uint64 // bytes of the answer after this part
	Error string // instead of an answer
}

// Frame encodes the part. It cuts an Error of more than 4 KiB.
func (a Inspected) Frame() Frame {
	w := cbor.NewWriter(len(a.Part) + 64)
	w.Map(func() {
		w.Key("id")
		w.Uint(a.ID)
		if len(a.Part) > 0 {
			w.BytesField("part", a.Part)
		}
		if a.Left > 0 {
			w.Key("left")
			w.Uint(a.Left)
		}
		w.OptionalText("error", wireText(a.Error))
	})
	return Frame{KindInspected, w.Encoded()}
}

// ParseInspected decodes the body of an inspected frame. It ignores unknown fields.
// Part is a part of body.
func ParseInspected(body []byte) (a Inspected, err error) {
	hasID := false
	r := cbor.NewReader(body)
	r.Map(func(key []byte) bool {
		switch string(key) {
		case "id":
			a.ID, hasID = r.Uint(0, math.MaxUint64), true
		case "part":
			a.Part = r.Bytes()
		case "left":
			a.Left = r.Uint(0, math.MaxUint64)
		case "error":
			a.Error = r.Text()
		default:
			return false
		}
		return true
	})
	return a, endWithID(r, hasID)
}

func endWithID(r *cbor.Reader, hasID bool) error {
	if !hasID {
		r.Fail(errors.New("no id"))
	}
	return r.End()
}
