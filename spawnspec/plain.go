package spawnspec

import (
	"log/slog"
	"math"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/spawnwire/spawnwire/internal/strictcbor"
)

// Spawn waits while a spec is written and read, by code that has not run for a while, or never: to fetch it is what takes
// the time (docs/PERFORMANCE.md). So a spec is written, and the usual one read, by the few lines below.

// writer appends items of CBOR, in their shortest form.
type writer struct {
	data  []byte
	pairs int // of the map that is being written
}

func (w *writer) head(major byte, n uint64) { w.data = strictcbor.AppendHead(w.data, major, n) }

func (w *writer) text(s string) {
	w.head(majorText, uint64(len(s)))
	w.data = append(w.data, s...)
}

func (w *writer) key(name string) {
	w.text(name)
	w.pairs++
}

// fields writes a map of fewer than 24 fields.
func (w *writer) fields(write func()) {
	at, around := len(w.data), w.pairs
	w.head(majorMap, 0)
	w.pairs = 0
	write()
	w.data[at] |= byte(w.pairs)
	w.pairs = around
}

func (w *writer) uint(key string, n uint64) {
	w.key(key)
	w.head(majorUint, n)
}

// What follows leaves out what is empty.

func (w *writer) optUint(key string, n uint64) {
	if n != 0 {
		w.uint(key, n)
	}
}

func (w *writer) optText(key, s string) {
	if s != "" {
		w.key(key)
		w.text(s)
	}
}

func (w *writer) optTexts(key string, texts []string) {
	if len(texts) == 0 {
		return
	}
	w.key(key)
	w.head(majorArray, uint64(len(texts)))
	for _, s := range texts {
		w.text(s)
	}
}

func (w *writer) optItem(key string, encoded cbor.RawMessage) {
	if len(encoded) > 0 {
		w.key(key)
		w.data = append(w.data, encoded...)
	}
}

func (w *writer) optTime(key string, t time.Time) {
	switch ns := t.UnixNano(); {
	case t.IsZero():
	case ns < 0:
		w.key(key)
		w.head(majorNegative, uint64(^ns))
	default:
		w.uint(key, uint64(ns))
	}
}

// encode encodes a spec that was checked, with its fields in the order of RFC 8949, section 4.2.1.
func (s *Spec) encode(args, vars cbor.RawMessage) []byte {
	level := ""
	if s.LogLevel != slog.LevelInfo {
		level = s.LogLevel.String()
	}
	w := writer{data: make([]byte, 0, 256+len(args)+len(vars))}
	w.fields(func() {
		w.uint("v", Version)
		w.optText("dir", s.Dir)
		w.optText("log", level)
		w.optItem("args", args)
		w.optTexts("bind", addrTexts(s.Bind))
		w.optText("name", s.Name)
		w.optItem("vars", vars)
		w.uint("depth", uint64(s.Depth))
		w.optText("entry", s.Entry)
		w.optUint("grace", uint64(s.Grace))
		w.optText("method", s.Method)
		w.key("parent")
		w.fields(func() {
			w.optText("id", s.Parent.ID)
			w.optUint("pid", uint64(s.Parent.PID))
			w.optText("name", s.Parent.Name)
		})
		w.optTexts("modules", s.Modules)
		w.optTime("deadline", s.Deadline)
		w.optTexts("registry", addrTexts(s.Registry))
	})
	return w.data
}

// readPlain decodes a spec with nothing but what nearly all have, each text in it of printable ASCII. It returns false for any other, which
// may be good or not: to say so is the matter of read.
func readPlain(data []byte) (*Spec, bool) {
	r := plainReader{rest: data, good: true}
	s, version := new(Spec), uint64(0)
	for n := r.head(majorMap); r.good && n > 0; n-- {
		switch string(r.next()) {
		case "v":
			version = r.uint(version, Version)
		case "name":
			s.Name = r.text(s.Name)
		case "depth":
			s.Depth = int(r.uint(uint64(s.Depth), maxDepth))
		case "entry":
			s.Entry = r.text(s.Entry)
		case "grace":
			s.Grace = time.Duration(r.uint(uint64(s.Grace), math.MaxInt64))
		case "method":
			s.Method = r.text(s.Method)
		case "parent":
			r.identity(&s.Parent)
		default:
			r.good = false
		}
	}
	there := version == Version && s.Name != "" && s.Depth != 0 && s.Method != "" && s.Parent.ID != ""
	return s, r.good && there && len(r.rest) == 0
}

// plainReader reads items that need no second look.
type plainReader struct {
	rest []byte
	good bool
}

func (r *plainReader) head(major byte) (n uint64) {
	kind, n, rest, err := readHead(r.rest)
	if err != nil || kind != major {
		r.good = false
		return 0
	}
	r.rest = rest
	return n
}

// next reads a text, of whatever bytes, which is a part of the data.
func (r *plainReader) next() []byte {
	n := r.head(majorText)
	if n > uint64(len(r.rest)) {
		r.good = false
		return nil
	}
	text := r.rest[:n]
	r.rest = r.rest[n:]
	return text
}

// text reads the value of a field that was, if it is there for the second time, something else before.
func (r *plainReader) text(before string) string {
	s := string(r.next())
	r.good = r.good && before == "" && s != "" && printable(s)
	return s
}

// uint is text for a number, from 1 to most.
func (r *plainReader) uint(before, most uint64) uint64 {
	n := r.head(majorUint)
	r.good = r.good && before == 0 && 0 < n && n <= most
	return n
}

func (r *plainReader) identity(id *Identity) {
	r.good = r.good && id.ID == ""
	for n := r.head(majorMap); r.good && n > 0; n-- {
		switch string(r.next()) {
		case "id":
			id.ID = r.text(id.ID)
		case "pid":
			id.PID = int(r.uint(uint64(id.PID), maxPID))
		case "name":
			id.Name = r.text(id.Name)
		default:
			r.good = false
		}
	}
	r.good = r.good && id.ID != ""
}

// printable tells whether s is of printable ASCII alone.
func printable(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}
