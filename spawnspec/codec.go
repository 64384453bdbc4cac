package spawnspec

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fxamacker/cbor/v2"

	wire "github.com/spawnwire/spawnwire/internal/cbor"
)

// version is the version of the wire format. It does not change for a field that
// old readers may ignore.
const version = 1

// maxArgsNesting is how deep arrays, maps and tags may nest in args. The map of
// the spec is one level more.
const maxArgsNesting = 63

// Marshal encodes a Spec. It refuses what [Spec.Validate] refuses, and also an
// empty Name or Method, a Depth outside 1 to 1000, and a negative Grace. Every
// error is a [*FieldError]. The same Spec always gives the same bytes.
func Marshal(s *Spec) ([]byte, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	if err := s.checkSpawner(); err != nil {
		return nil, err
	}
	args, err := encodeArgs(s.Args)
	if err != nil {
		return nil, err
	}
	level := ""
	if s.LogLevel != slog.LevelInfo {
		level = s.LogLevel.String()
	}
	w := wire.NewWriter(256 + len(args))
	w.Map(func() { // in the order of RFC 8949, section 4.2.1
		w.IntField("v", version)
		w.OptionalText("dir", s.Dir)
		w.OptionalText("log", level)
		w.OptionalRaw("args", args)
		w.TextField("name", s.Name)
		w.IntField("depth", int64(s.Depth))
		w.OptionalText("entry", s.Entry)
		w.OptionalInt("grace", int64(s.Grace))
		w.TextField("method", s.Method)
		w.OptionalInt("silence", int64(s.DeadAfter))
		if !s.Deadline.IsZero() {
			w.IntField("deadline", s.Deadline.UnixNano())
		}
	})
	return w.Encoded(), nil
}

// Unmarshal decodes and checks a Spec. It keeps no part of data, and it ignores
// unknown fields. The error for a wrong or missing field is a [*FieldError]. If
// data has another version, the error is for the field "v", even if other fields
// are wrong too.
func Unmarshal(data []byte) (*Spec, error) {
	s := new(Spec)
	if err := s.decode(data); err != nil {
		return nil, err
	}
	if err := s.checkSpawner(); err != nil {
		return nil, err
	}
	if err := s.check(); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *Spec) decode(data []byte) error {
	r := wire.NewReader(data)
	hasVersion := false
	r.Map(func(key []byte) bool {
		switch string(key) {
		case "v":
			readVersion(r)
			hasVersion = true
		case "dir":
			s.Dir = readText(r)
		case "log":
			s.LogLevel = readLevel(r)
		case "args":
			s.Args = cbor.RawMessage(slices.Clone(r.Opaque(maxArgsNesting)))
		case "name":
			s.Name = readText(r)
		case "depth":
			s.Depth = int(r.Uint(1, maxDepth))
		case "entry":
			s.Entry = readText(r)
		case "grace":
			s.Grace = time.Duration(r.Nanoseconds())
		case "method":
			s.Method = readText(r)
		case "silence":
			s.DeadAfter = time.Duration(r.Nanoseconds())
		case "deadline":
			s.Deadline = time.Unix(0, r.Int()).UTC()
		default:
			return false
		}
		return true
	})
	if err := r.End(); err != nil {
		return specError(data, err)
	}
	for _, f := range []struct {
		field   string
		present bool
	}{{"v", hasVersion}, {"name", s.Name != ""}, {"depth", s.Depth != 0},
		{"method", s.Method != ""}} {
		if !f.present {
			return fieldErrorf(f.field, "missing")
		}
	}
	return nil
}

// specError turns an error of the reader into one of this package. An error in
// the version of the spec comes before all others.
func specError(data []byte, err error) error {
	r := wire.NewReader(data)
	r.Map(func(key []byte) bool {
		if string(key) == "v" {
			readVersion(r)
		} else {
			r.Opaque(maxArgsNesting)
		}
		return true
	})
	var wrong *wire.FieldError
	if errors.As(r.End(), &wrong) && wrong.Field == "v" || errors.As(err, &wrong) {
		return &FieldError{Field: wrong.Field, Err: wrong.Err}
	}
	return fmt.Errorf("spawnspec: malformed: %w", err)
}

func readVersion(r *wire.Reader) {
	if v := r.Uint(0, math.MaxUint64); v != version {
		r.Fail(fmt.Errorf("the spec has version %d, this program reads version %d", v, version))
	}
}

// readText reads text and refuses empty text.
func readText(r *wire.Reader) string {
	s := r.Text()
	if s == "" {
		r.Fail(errors.New("empty"))
	}
	return s
}

func readLevel(r *wire.Reader) (level slog.Level) {
	text := readText(r)
	_, digits, _ := strings.Cut(strings.Replace(text, "-", "+", 1), "+")
	// The library takes small letters too, and it adds an offset of any size.
	if strings.ToUpper(text) != text || len(digits) > maxLevelDigits ||
		level.UnmarshalText([]byte(text)) != nil {
		r.Fail(fmt.Errorf("%.40q is no level; want DEBUG, INFO, WARN or ERROR, "+
			"with or without an offset of at most %d digits such as +2", text, maxLevelDigits))
	}
	return level
}

// encodeArgs returns nil for no arguments.
func encodeArgs(args any) (cbor.RawMessage, error) {
	if args == nil {
		return nil, nil
	}
	encoded, ok := args.(cbor.RawMessage)
	if !ok {
		var err error
		if encoded, err = modes().encode.Marshal(args); err != nil {
			return nil, fieldErrorf("args", "%T cannot be encoded: %w", args, err)
		}
	}
	if len(encoded) == 0 {
		return nil, nil
	}
	// A RawMessage, or the MarshalCBOR method of a type, can give invalid CBOR.
	r := wire.NewReader(encoded)
	r.Opaque(maxArgsNesting)
	if err := r.End(); err != nil {
		return nil, &FieldError{Field: "args", Err: err}
	}
	return encoded, nil
}

type cborModes struct {
	encode cbor.EncMode
	decode cbor.DecMode
}

// modes returns the modes of the CBOR library for args. The first call makes them.
// It is not done in init, because that would slow down the start of each child.
var modes = sync.OnceValue(func() cborModes {
	encoding := cbor.CoreDetEncOptions()
	encoding.Time = cbor.TimeRFC3339Nano // the default cuts to seconds
	encoding.TimeTag = cbor.EncTagRequired
	encode, err := encoding.EncMode()
	if err != nil {
		panic(err) // the options are constants
	}
	decode, err := cbor.DecOptions{
		DupMapKey:        cbor.DupMapKeyEnforcedAPF,
		IndefLength:      cbor.IndefLengthForbidden,
		MaxNestedLevels:  maxArgsNesting,
		MaxArrayElements: math.MaxInt32,
		MaxMapPairs:      math.MaxInt32,
	}.DecMode()
	if err != nil {
		panic(err)
	}
	return cborModes{encode, decode}
})
