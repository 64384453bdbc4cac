package cbor

import "encoding/binary"

// Writer appends items in their shortest form. Its zero value is ready to use.
type Writer struct {
	data  []byte
	pairs int // so far, of the map that is being written
}

// NewWriter returns a Writer with room for size bytes.
func NewWriter(size int) *Writer { return &Writer{data: make([]byte, 0, size)} }

// Encoded returns what was written.
func (w *Writer) Encoded() []byte { return w.data }

func (w *Writer) head(major byte, n uint64) {
	major <<= 5
	switch {
	case n < 24:
		w.data = append(w.data, major|byte(n))
	case n < 1<<8:
		w.data = append(w.data, major|24, byte(n))
	case n < 1<<16:
		w.data = binary.BigEndian.AppendUint16(append(w.data, major|25), uint16(n))
	case n < 1<<32:
		w.data = binary.BigEndian.AppendUint32(append(w.data, major|26), uint32(n))
	default:
		w.data = binary.BigEndian.AppendUint64(append(w.data, major|27), n)
	}
}

// Int writes an integer.
func (w *Writer) Int(n int64) {
	if n < 0 {
		w.head(majorNegative, uint64(^n))
		return
	}
	w.head(majorUint, uint64(n))
}

// Uint writes an unsigned integer.
func (w *Writer) Uint(n uint64) { w.head(majorUint, n) }

// Text writes s, which must be UTF-8.
func (w *Writer) Text(s string) {
	w.head(majorText, uint64(len(s)))
	w.data = append(w.data, s...)
}

// Bytes writes a byte string.
func (w *Writer) Bytes(b []byte) {
	w.head(majorBytes, uint64(len(b)))
	w.data = append(w.data, b...)
}

// Array begins an array of the n items that are written next.
func (w *Writer) Array(n int) { w.head(majorArray, uint64(n)) }

// Map writes a map of the pairs that write writes: fewer than 24, so that their
// number fits the initial byte.
func (w *Writer) Map(write func()) {
	start, around := len(w.data), w.pairs
	w.head(majorMap, 0)
	w.pairs = 0
	write()
	w.data[start] |= byte(w.pairs)
	w.pairs = around
}

// Key begins a pair. Its value must be written next.
func (w *Writer) Key(key string) {
	w.Text(key)
	w.pairs++
}

// IntField writes a pair.
func (w *Writer) IntField(key string, n int64) {
	w.Key(key)
	w.Int(n)
}

// TextField writes a pair.
func (w *Writer) TextField(key, s string) {
	w.Key(key)
	w.Text(s)
}

// BytesField writes a pair.
func (w *Writer) BytesField(key string, b []byte) {
	w.Key(key)
	w.Bytes(b)
}

// OptionalInt writes a pair, unless n is 0.
func (w *Writer) OptionalInt(key string, n int64) {
	if n != 0 {
		w.IntField(key, n)
	}
}

// OptionalText writes a pair, unless s is empty.
func (w *Writer) OptionalText(key, s string) {
	if s != "" {
		w.TextField(key, s)
	}
}

// OptionalRaw writes a pair whose value is encoded already, unless item is
// empty.
func (w *Writer) OptionalRaw(key string, item []byte) {
	if len(item) > 0 {
		w.Key(key)
		w.data = append(w.data, item...)
	}
}
