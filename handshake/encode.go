package handshake

import (
	"github.com/spawnwire/spawnwire/internal/strictcbor"
)

// The handshake's messages are few and small, and a child encodes its first one before anything in the
// process is warm: a general encoder spends more time there on learning our types than on all else
// it does (docs/PERFORMANCE.md). So they are written by hand, as the shortest form of RFC 8949, 4.2.1,
// in the order of their fields. Of what is read from others the outer form, two byte strings, and a child's usual
// answer, for which Spawn waits, are read by hand too; all other maps go through the library.

// cborWriter appends items of CBOR.
type cborWriter []byte

const (
	majorUint  = 0
	majorBytes = 2
	majorText  = 3
	majorArray = 4
	majorMap   = 5
)

func (w *cborWriter) head(major byte, n uint64) { *w = strictcbor.AppendHead(*w, major, n) }

func (w *cborWriter) uint(n uint64) { w.head(majorUint, n) }
func (w *cborWriter) array(n int)   { w.head(majorArray, uint64(n)) }
func (w *cborWriter) pairs(n int)   { w.head(majorMap, uint64(n)) }

func (w *cborWriter) text(s string) {
	w.head(majorText, uint64(len(s)))
	*w = append(*w, s...)
}

func (w *cborWriter) bytes(b []byte) {
	w.head(majorBytes, uint64(len(b)))
	*w = append(*w, b...)
}

// cborReader takes items of definite length from the front of untrusted bytes.
type cborReader []byte

// head takes the head of an item of the given major type and returns its argument. Indefinite lengths
// are not ok.
func (r *cborReader) head(major byte) (n uint64, ok bool) {
	got, _, n, rest, err := strictcbor.Head(*r)
	if err != nil || got != major {
		return 0, false
	}
	*r = rest
	return n, true
}

func (r *cborReader) bytes() ([]byte, bool) { return r.string(majorBytes) }
func (r *cborReader) text() ([]byte, bool)  { return r.string(majorText) } // UTF-8 or not

func (r *cborReader) string(major byte) ([]byte, bool) {
	n, ok := r.head(major)
	if !ok || n > uint64(len(*r)) {
		return nil, false
	}
	b := (*r)[:n:n]
	*r = (*r)[n:]
	return b, true
}

// The fields of a map.

func (w *cborWriter) uintField(key string, n uint64) { w.text(key); w.uint(n) }
func (w *cborWriter) textField(key, s string)        { w.text(key); w.text(s) }
func (w *cborWriter) bytesField(key string, b []byte) {
	w.text(key)
	w.bytes(b)
}

func (w *cborWriter) rangeField(key string, r Range) {
	w.text(key)
	w.array(2)
	w.uint(uint64(r.Min))
	w.uint(uint64(r.Max))
}

// who writes the fields in which every process says who it is.
func (w *cborWriter) who(id, name string, pid int, nonce []byte) {
	w.textField("id", id)
	w.textField("name", name)
	w.uintField("pid", uint64(pid))
	w.bytesField("nonce", nonce)
}

// features writes an optional field: nothing for an empty list.
func (w *cborWriter) features(list []string) {
	if len(list) == 0 {
		return
	}
	w.text("features")
	w.array(len(list))
	for _, s := range list {
		w.text(s)
	}
}

// count returns how many of the optional fields are there.
func count(there ...bool) (n int) {
	for _, t := range there {
		if t {
			n++
		}
	}
	return n
}

func (s sealed) encode() []byte {
	var w cborWriter
	w.array(2)
	w.bytes(s.Payload)
	w.bytes(s.MAC)
	return w
}

func (h hello) encode() []byte {
	var w cborWriter
	w.pairs(5 + count(len(h.Features) > 0))
	w.rangeField("versions", h.Versions)
	w.who(h.ID, h.Name, h.PID, h.Nonce)
	w.features(h.Features)
	return w
}

func (m welcome) encode() []byte {
	var w cborWriter
	w.pairs(5 + count(len(m.Features) > 0))
	w.uintField("version", uint64(m.Version))
	w.who(m.ID, m.Name, m.PID, m.Nonce)
	w.features(m.Features)
	return w
}

func (a attach) encode() []byte {
	var w cborWriter
	w.pairs(2)
	w.textField("id", a.ID)
	w.bytesField("nonce", a.Nonce)
	return w
}

func (g greet) encode() []byte {
	var w cborWriter
	w.pairs(6 + count(len(g.Features) > 0))
	w.rangeField("versions", g.Versions)
	w.who(g.ID, g.Name, g.PID, g.Nonce)
	w.textField("auth", g.Auth)
	w.features(g.Features)
	return w
}

func (f failed) encode() []byte {
	var w cborWriter
	w.pairs(3 + count(f.Versions != nil))
	w.textField("phase", string(f.Phase))
	w.textField("code", f.Code)
	w.textField("error", f.Text)
	if f.Versions != nil {
		w.rangeField("versions", *f.Versions)
	}
	return w
}

func (r ready) encode() []byte {
	t := r.Timings
	var w cborWriter
	w.pairs(1)
	w.text("timings")
	w.pairs(count(t.Init > 0, t.Main > 0, t.Connected > 0, t.Accepted > 0))
	for _, m := range []struct {
		key string
		at  int64
	}{{"init", t.Init}, {"main", t.Main}, {"connected", t.Connected}, {"accepted", t.Accepted}} {
		if m.at > 0 {
			w.uintField(m.key, uint64(m.at))
		}
	}
	return w
}

// encodeProof encodes the body of a proof frame.
func encodeProof(mac []byte) []byte {
	var w cborWriter
	w.bytes(mac)
	return w
}
