package handshake

import (
	"bytes"
	"errors"
	"fmt"
	"math"

	"github.com/spawnwire/spawnwire/internal/cbor"
	"github.com/spawnwire/spawnwire/internal/frame"
	"github.com/spawnwire/spawnwire/transport"
)

// message is a message encoded as a map. field reads the value of key and
// returns true. It returns false if the message has no such field. required
// returns the fields that must be there.
type message interface {
	field(r *cbor.Reader, key []byte) bool
	required() []string
}

// decode decodes a message from the body of a frame, or from a sealed payload.
func decode(kind frame.Kind, body []byte, m message) error {
	r := cbor.NewReader(body)
	required, found := m.required(), 0
	r.Map(func(key []byte) bool {
		for i, name := range required {
			if string(key) == name {
				found |= 1 << i
			}
		}
		return m.field(r, key)
	})
	for i, name := range required {
		if found&(1<<i) == 0 {
			r.Fail(fmt.Errorf("no %s", name))
		}
	}
	return malformed(kind, r.End())
}

// malformed returns err as an error of the protocol, or nil if err is nil.
func malformed(kind frame.Kind, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %s: %v", transport.ErrProtocol, kind, err)
}

// encodeProof encodes the body of a proof frame.
func encodeProof(mac []byte) []byte {
	var w cbor.Writer
	w.Bytes(mac)
	return w.Encoded()
}

func decodeProof(body []byte) ([]byte, error) {
	r := cbor.NewReader(body)
	mac := r.Bytes()
	return mac, malformed(frame.KindProof, r.End())
}

func (h hello) encode() []byte {
	var w cbor.Writer
	w.Map(func() {
		writeRange(&w, "versions", h.versions)
		h.self.write(&w)
		writeFeatures(&w, h.features)
	})
	return w.Encoded()
}

func (*hello) required() []string {
	return []string{"versions", "id", "name", "pid", "nonce"}
}

func (h *hello) field(r *cbor.Reader, key []byte) bool {
	if string(key) == "versions" {
		h.versions = readRange(r)
		return true
	}
	return h.self.field(r, key)
}

func (m welcome) encode() []byte {
	var w cbor.Writer
	w.Map(func() {
		w.Key("version")
		w.Uint(uint64(m.version))
		m.self.write(&w)
		writeFeatures(&w, m.features)
		if m.limit != 0 {
			w.Key("limit")
			w.Uint(uint64(m.limit))
		}
	})
	return w.Encoded()
}

func (*welcome) required() []string {
	return []string{"version", "id", "name", "pid", "nonce"}
}

func (m *welcome) field(r *cbor.Reader, key []byte) bool {
	switch string(key) {
	case "version":
		m.version = uint(r.Uint(0, math.MaxUint))
		return true
	case "limit":
		m.limit = int(r.Uint(1, math.MaxInt32))
		return true
	}
	return m.self.field(r, key)
}

func (a attach) encode() []byte {
	var w cbor.Writer
	w.Map(func() {
		w.TextField("id", a.id)
		w.BytesField("nonce", a.nonce)
	})
	return w.Encoded()
}

func (*attach) required() []string {
	return []string{"id", "nonce"}
}

func (a *attach) field(r *cbor.Reader, key []byte) bool {
	switch string(key) {
	case "id":
		a.id = r.Text()
	case "nonce":
		a.nonce = r.Bytes()
	default:
		return false
	}
	return true
}

func (attached) encode() []byte {
	var w cbor.Writer
	w.Map(func() {})
	return w.Encoded()
}

func (*attached) required() []string              { return nil }
func (*attached) field(*cbor.Reader, []byte) bool { return false }

func (g greet) encode() []byte {
	var w cbor.Writer
	w.Map(func() {
		writeRange(&w, "versions", g.versions)
		g.self.write(&w)
		w.TextField("auth", g.auth)
		writeFeatures(&w, g.features)
	})
	return w.Encoded()
}

func (*greet) required() []string {
	return []string{"versions", "id", "name", "pid", "nonce", "auth"}
}

func (g *greet) field(r *cbor.Reader, key []byte) bool {
	switch string(key) {
	case "versions":
		g.versions = readRange(r)
	case "auth":
		g.auth = r.Text()
	default:
		return g.self.field(r, key)
	}
	return true
}

func (f failed) encode() []byte {
	var w cbor.Writer
	w.Map(func() {
		w.TextField("phase", string(f.phase))
		w.TextField("code", f.code)
		w.TextField("error", f.text)
		if f.versions != nil {
			writeRange(&w, "versions", *f.versions)
		}
	})
	return w.Encoded()
}

func (*failed) required() []string {
	return []string{"phase", "code", "error"}
}

func (f *failed) field(r *cbor.Reader, key []byte) bool {
	switch string(key) {
	case "phase":
		f.phase = Phase(r.Text())
	case "code":
		f.code = r.Text()
	case "error":
		f.text = r.Text()
	case "versions":
		versions := readRange(r)
		f.versions = &versions
	default:
		return false
	}
	return true
}

func (m ready) encode() []byte {
	t := m.timings
	var w cbor.Writer
	w.Map(func() {
		w.Key("timings")
		w.Map(func() {
			w.OptionalInt("init", t.Init)
			w.OptionalInt("main", t.Main)
			w.OptionalInt("connected", t.Connected)
			w.OptionalInt("accepted", t.Accepted)
		})
		if m.value != nil {
			w.BytesField("value", m.value)
		}
	})
	return w.Encoded()
}

func (*ready) required() []string { return nil }

func (m *ready) field(r *cbor.Reader, key []byte) bool {
	switch string(key) {
	case "timings":
	case "value":
		m.value = bytes.Clone(r.Bytes())
		return true
	default:
		return false
	}
	t := &m.timings
	r.Map(func(key []byte) bool {
		switch string(key) {
		case "init":
			t.Init = r.Nanoseconds()
		case "main":
			t.Main = r.Nanoseconds()
		case "connected":
			t.Connected = r.Nanoseconds()
		case "accepted":
			t.Accepted = r.Nanoseconds()
		default:
			return false
		}
		return true
	})
	return true
}

func writeRange(w *cbor.Writer, key string, v versionRange) {
	w.Key(key)
	w.Array(2)
	w.Uint(uint64(v[0]))
	w.Uint(uint64(v[1]))
}

func readRange(r *cbor.Reader) versionRange {
	if r.Array() != 2 {
		r.Fail(errors.New("not an array of two"))
	}
	return versionRange{uint(r.Uint(0, math.MaxUint)), uint(r.Uint(0, math.MaxUint))}
}

// write writes all fields except the features, because a greet has another
// field between.
func (s *self) write(w *cbor.Writer) {
	w.TextField("id", s.ID)
	w.TextField("name", s.Name)
	w.IntField("pid", int64(s.PID))
	w.BytesField("nonce", s.nonce)
}

// writeFeatures writes the features. The field is optional, so it writes
// nothing for an empty list.
func writeFeatures(w *cbor.Writer, features []string) {
	if len(features) == 0 {
		return
	}
	w.Key("features")
	w.Array(len(features))
	for _, f := range features {
		w.Text(f)
	}
}

func (s *self) field(r *cbor.Reader, key []byte) bool {
	switch string(key) {
	case "id":
		s.ID = r.Text()
	case "name":
		s.Name = r.Text()
	case "pid":
		s.PID = int(r.Uint(0, maxPID))
	case "nonce":
		s.nonce = r.Bytes()
	case "features":
		s.features = r.Texts(ourFeatures...)
	default:
		return false
	}
	return true
}
