package spawnspec_test

import (
	"encoding/hex"
	"errors"
	"log/slog"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/spawnspec"
)

type resize struct {
	Width, Height int
	Format        string
	At            time.Time
}

// least returns a Spec with the required fields, and an entry.
func least() spawnspec.Spec {
	return spawnspec.Spec{Name: "c", Entry: "e", Method: "exec", Depth: 1}
}

// full returns a Spec with a value in every field.
func full(t testing.TB) spawnspec.Spec {
	t.Helper()
	return spawnspec.Spec{
		Name:  "größer-1",
		Entry: "resize",
		Args: resize{640, 480, "webp",
			time.Date(2026, 5, 4, 3, 2, 1, 123456789, time.FixedZone("", 2*3600))},
		Dir:      t.TempDir(),
		LogLevel: slog.LevelDebug - 2,
		Deadline: time.Date(2030, 1, 2, 3, 4, 5, 6, time.UTC),
		Method:   "forkserver",
		Depth:    3,
		Grace:    1500 * time.Millisecond,

		DeadAfter: 10 * time.Second,
	}
}

func marshal(t testing.TB, s spawnspec.Spec) []byte {
	t.Helper()
	data, err := spawnspec.Marshal(&s)
	require.NoError(t, err)
	return data
}

func unmarshal(t testing.TB, data []byte) *spawnspec.Spec {
	t.Helper()
	s, err := spawnspec.Unmarshal(data)
	require.NoError(t, err)
	return s
}

// fieldOf returns the field of the FieldError in err.
func fieldOf(t testing.TB, err error) string {
	t.Helper()
	var fieldErr *spawnspec.FieldError
	require.ErrorAs(t, err, &fieldErr)
	return fieldErr.Field
}

func TestSpec_KeepsEveryField(t *testing.T) {
	sent := full(t)
	got := unmarshal(t, marshal(t, sent))

	var args resize
	require.NoError(t, got.DecodeArgs(&args))
	assert.True(t, sent.Args.(resize).At.Equal(args.At), "times in args keep their nanoseconds")
	_, offset := args.At.Zone()
	assert.Equal(t, 2*3600, offset, "and their zone")
	args.At = sent.Args.(resize).At
	assert.Equal(t, sent.Args, args)

	sent.Args, got.Args = nil, nil
	assert.Equal(t, &sent, got)
}

func TestSpec_KeepsZeroValues(t *testing.T) {
	sent := least()
	got := unmarshal(t, marshal(t, sent))
	assert.Equal(t, &sent, got)
	assert.Nil(t, got.Args)
	assert.Equal(t, slog.LevelInfo, got.LogLevel)
	assert.True(t, got.Deadline.IsZero())
}

func TestSpec_KeepsALogLevel(t *testing.T) {
	for _, level := range []slog.Level{
		slog.LevelDebug, slog.LevelInfo, slog.LevelInfo + 1, slog.LevelWarn,
		slog.LevelError, slog.LevelError + 100,
		slog.LevelError + 999_999_999, slog.LevelDebug - 999_999_999,
	} {
		sent := least()
		sent.LogLevel = level
		assert.Equal(t, level, unmarshal(t, marshal(t, sent)).LogLevel)
	}
	for _, level := range []slog.Level{
		slog.LevelError + 1_000_000_000, slog.LevelDebug - 1_000_000_000, math.MaxInt, math.MinInt,
	} {
		sent := least()
		sent.LogLevel = level
		_, err := spawnspec.Marshal(&sent)
		assert.Equal(t, "log", fieldOf(t, err))
	}
}

func TestSpec_KeepsADeadlineInUTC(t *testing.T) {
	for _, deadline := range []time.Time{
		time.Now().Add(time.Minute), // with a monotonic clock
		time.Unix(0, 0),             // not the zero time
		time.Unix(0, -1),
		time.Unix(0, math.MinInt64),
		time.Unix(0, math.MaxInt64),
		time.Date(2030, 1, 1, 0, 0, 0, 1, time.FixedZone("east", 9*3600)),
	} {
		sent := least()
		sent.Deadline = deadline
		got := unmarshal(t, marshal(t, sent)).Deadline
		assert.True(t, deadline.Equal(got), "%v became %v", deadline, got)
		assert.Equal(t, time.UTC, got.Location())
	}
}

func TestMarshal_WritesTheseBytesForTheLeastSpec(t *testing.T) {
	const want = "a5" + // a map of 5
		"617601" + // "v": 1
		"646e616d656163" + // "name": "c"
		"65646570746801" + // "depth": 1
		"65656e7472796165" + // "entry": "e"
		"666d6574686f646465786563" // "method": "exec"
	assert.Equal(t, want, hex.EncodeToString(marshal(t, least())))
}

func TestMarshal_WritesTheseFields(t *testing.T) {
	sent := full(t)
	var wire map[string]any
	require.NoError(t, cbor.Unmarshal(marshal(t, sent), &wire))
	delete(wire, "args")
	assert.Equal(t, map[string]any{
		"v":        uint64(1),
		"name":     "größer-1",
		"entry":    "resize",
		"dir":      sent.Dir,
		"log":      "DEBUG-2",
		"deadline": uint64(sent.Deadline.UnixNano()),
		"method":   "forkserver",
		"depth":    uint64(3),
		"grace":    uint64(1_500_000_000),
		"silence":  uint64(10_000_000_000),
	}, wire)
}

func TestMarshal_IsDeterministic(t *testing.T) {
	sent := full(t)
	sent.Args = map[string]map[int]string{"x": {1: "a", 2: "b", 3: "c"}, "y": {}, "z": nil}
	first := marshal(t, sent)
	for range 50 { // Go walks a map in another order each time
		require.Equal(t, first, marshal(t, sent))
	}
	got := unmarshal(t, first)
	assert.Equal(t, first, marshal(t, *got), "also after a round trip")
}

// The CBOR library encodes the same map in the same order of keys.
func TestMarshal_WritesTheDeterministicForm(t *testing.T) {
	mode, err := cbor.CoreDetEncOptions().EncMode()
	require.NoError(t, err)
	past := full(t)
	past.Deadline = time.Date(1700, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, s := range []spawnspec.Spec{least(), full(t), past} {
		data := marshal(t, s)
		var fields map[string]cbor.RawMessage
		require.NoError(t, cbor.Unmarshal(data, &fields))
		again, err := mode.Marshal(fields)
		require.NoError(t, err)
		assert.Equal(t, again, data)
	}
}

func TestArgs_AreTheSameInParentAndChild(t *testing.T) {
	raw, err := cbor.Marshal("raw")
	require.NoError(t, err)
	of := func(v any) *any { return &v }
	for _, c := range []struct {
		name       string
		args, into any
		want       any
	}{
		{"a struct", resize{Width: 3}, new(resize), &resize{Width: 3}},
		{"a pointer to a struct", &resize{Width: 3}, new(resize), &resize{Width: 3}},
		{"a map", map[string]int{"a": 1}, new(map[string]int), &map[string]int{"a": 1}},
		{"a text", "x", new(any), of("x")},
		{"a nil map, which is null", map[string]int(nil), new(map[string]int), new(map[string]int)},
		{"an encoded value", cbor.RawMessage(raw), new(any), of("raw")},
		{"more elements than the library's default limit", make([]bool, 200_000), new([]bool),
			func() *[]bool { s := make([]bool, 200_000); return &s }()},
		{"a map with keys of any kind", map[any]any{1.5: "x", nil: "y"}, new(any),
			of(map[any]any{1.5: "x", nil: "y"})},
	} {
		t.Run(c.name, func(t *testing.T) {
			sent := least()
			sent.Args = c.args
			require.NoError(t, sent.Validate())
			require.NoError(t, sent.DecodeArgs(c.into))
			assert.Equal(t, c.want, c.into, "in the parent")

			got := unmarshal(t, marshal(t, sent))
			assert.IsType(t, cbor.RawMessage{}, got.Args)
			require.NoError(t, got.DecodeArgs(c.into))
			assert.Equal(t, c.want, c.into, "in the child")
		})
	}
}

func TestArgs_OfNoValueHaveAnErrorOfTheirOwn(t *testing.T) {
	for _, args := range []any{nil, cbor.RawMessage(nil), cbor.RawMessage{}} {
		sent := least()
		sent.Args = args
		v := "unchanged"
		require.ErrorIs(t, sent.DecodeArgs(&v), spawnspec.ErrNoArgs)
		require.ErrorIs(t, unmarshal(t, marshal(t, sent)).DecodeArgs(&v), spawnspec.ErrNoArgs)
		assert.Equal(t, "unchanged", v)
	}
}

func TestArgs_OfAnotherTypeAreAnErrorOfArgs(t *testing.T) {
	sent := least()
	sent.Args = "text"
	var n int
	err := sent.DecodeArgs(&n)
	assert.Equal(t, "args", fieldOf(t, err))
	assert.Contains(t, err.Error(), "cannot be decoded into *int")
	var typeErr *cbor.UnmarshalTypeError
	assert.ErrorAs(t, err, &typeErr)

	assert.Equal(t, "args", fieldOf(t, sent.DecodeArgs(nil)))

	sent.Args = cbor.RawMessage("\xa2\x61x\x01\x61x\x02") // {"x": 1, "x": 2}
	var m map[string]int
	err = unmarshal(t, marshal(t, sent)).DecodeArgs(&m)
	var dup *cbor.DupMapKeyError
	require.ErrorAs(t, err, &dup, "DecodeArgs finds a duplicate key")
	assert.Equal(t, "args", fieldOf(t, err))

	sent.Args = []any{cbor.Tag{Number: 0, Content: 5}} // a date is text
	var v any
	assert.Equal(t, "args", fieldOf(t, unmarshal(t, marshal(t, sent)).DecodeArgs(&v)))
}

func TestArgs_NestNoDeeperThanTheLimit(t *testing.T) {
	for name, nested := range map[string]func(levels int) string{
		"arrays": func(levels int) string { return strings.Repeat("\x81", levels) + "\x00" },
		"maps":   func(levels int) string { return strings.Repeat("\xa1\x00", levels) + "\x00" },
		"keys": func(levels int) string {
			return strings.Repeat("\xa1", levels) + strings.Repeat("\x00", levels+1)
		},
		"tags": func(levels int) string { return strings.Repeat("\xd8\x64", levels) + "\x00" },
	} {
		t.Run(name, func(t *testing.T) {
			sent := least()
			sent.Args = cbor.RawMessage(nested(63))
			unmarshal(t, marshal(t, sent))
			sent.Args = cbor.RawMessage(nested(64))
			assert.Equal(t, "args", fieldOf(t, sent.Validate()))
			_, err := spawnspec.Unmarshal(withField(t, "args", sent.Args))
			assert.Equal(t, "args", fieldOf(t, err))
		})
	}
	sent := least()
	sent.Args = cbor.RawMessage(strings.Repeat("\x81", 63) + "\x00")
	var v any
	require.NoError(t, unmarshal(t, marshal(t, sent)).DecodeArgs(&v),
		"the library has the same limit")
}

func TestValidate_RefusesWrongValues(t *testing.T) {
	long := strings.Repeat("x", 257)
	for _, c := range []struct {
		name, field, text string
		spoil             func(s *spawnspec.Spec)
	}{
		{"no name and no entry", "name", "empty, and there is no entry", func(s *spawnspec.Spec) {
			s.Name, s.Entry = "", ""
		}},
		{"a long name", "name", "257 bytes long; at most 256", func(s *spawnspec.Spec) {
			s.Name = long
		}},
		{"a name that is not UTF-8", "name", "not UTF-8", func(s *spawnspec.Spec) {
			s.Name = "a\xff"
		}},
		{"a name with a line feed", "name", `"a\nb" has a control character`,
			func(s *spawnspec.Spec) {
				s.Name = "a\nb"
			}},
		{"a name with a C1 control", "name", "control character", func(s *spawnspec.Spec) {
			s.Name = "a\u0085"
		}},
		{"a long entry", "entry", "257 bytes", func(s *spawnspec.Spec) { s.Entry = long }},
		{"args without a form in CBOR", "args", "chan int cannot be encoded",
			func(s *spawnspec.Spec) {
				s.Args = make(chan int)
			}},
		{"args with text that is not UTF-8", "args", "not UTF-8", func(s *spawnspec.Spec) {
			s.Args = []string{"\xff"}
		}},
		{"raw args that are cut", "args", "unexpected EOF", func(s *spawnspec.Spec) {
			s.Args = cbor.RawMessage{0x82, 1}
		}},
		{"raw args of two items", "args", "1 bytes too many", func(s *spawnspec.Spec) {
			s.Args = cbor.RawMessage{1, 2}
		}},
		{"raw args of indefinite length", "args", "indefinite", func(s *spawnspec.Spec) {
			s.Args = cbor.RawMessage{0x9f, 0xff}
		}},
		{"a time without a form in RFC 3339", "args", "year", func(s *spawnspec.Spec) {
			s.Args = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)
		}},
		{"a relative directory", "dir", `"tmp" is not absolute`, func(s *spawnspec.Spec) {
			s.Dir = "tmp"
		}},
		{"a directory with NUL", "dir", "NUL", func(s *spawnspec.Spec) { s.Dir += "\x00" }},
		{"a long directory", "dir", "at most 32767", func(s *spawnspec.Spec) {
			s.Dir += strings.Repeat("x", 32767)
		}},
		{"a directory that is not UTF-8", "dir", "not UTF-8", func(s *spawnspec.Spec) {
			s.Dir += "\xff"
		}},
		{"a negative silence", "silence", "-1ns is negative", func(s *spawnspec.Spec) {
			s.DeadAfter = -1
		}},
		{"a deadline long ago", "deadline", "year 1600 is out of range", func(s *spawnspec.Spec) {
			s.Deadline = time.Date(1600, 1, 1, 0, 0, 0, 0, time.UTC)
		}},
		{"a deadline too far", "deadline", "year 2300 is out of range", func(s *spawnspec.Spec) {
			s.Deadline = time.Date(2300, 1, 1, 0, 0, 0, 0, time.UTC)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := full(t)
			c.spoil(&s)
			err := s.Validate()
			assert.Equal(t, c.field, fieldOf(t, err))
			assert.Contains(t, err.Error(), `spawnspec: field "`+c.field+`": `)
			assert.Contains(t, err.Error(), c.text)
			_, marshalErr := spawnspec.Marshal(&s)
			require.Error(t, marshalErr)
			assert.Equal(t, err.Error(), marshalErr.Error())
		})
	}
}

func TestMarshal_RefusesWhatTheSpawnerForgot(t *testing.T) {
	for _, c := range []struct {
		name, field string
		spoil       func(s *spawnspec.Spec)
	}{
		{"no name", "name", func(s *spawnspec.Spec) { s.Name = "" }},
		{"no method", "method", func(s *spawnspec.Spec) { s.Method = "" }},
		{"a method with a control character", "method", func(s *spawnspec.Spec) {
			s.Method = "exec\n"
		}},
		{"the depth of a root", "depth", func(s *spawnspec.Spec) { s.Depth = 0 }},
		{"a negative depth", "depth", func(s *spawnspec.Spec) { s.Depth = -1 }},
		{"too many generations", "depth", func(s *spawnspec.Spec) { s.Depth = 1001 }},
		{"a negative grace", "grace", func(s *spawnspec.Spec) { s.Grace = -1 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := full(t)
			c.spoil(&s)
			assert.NoError(t, s.Validate())
			_, err := spawnspec.Marshal(&s)
			assert.Equal(t, c.field, fieldOf(t, err))
		})
	}
}

func TestFieldError_LeadsToItsCause(t *testing.T) {
	cause := errors.New("why")
	err := &spawnspec.FieldError{Field: "f", Err: cause}
	assert.ErrorIs(t, err, cause)
	assert.Equal(t, `spawnspec: field "f": why`, err.Error())
}

func TestSpec_KeepsNilAndEmptyArgsApart(t *testing.T) {
	for _, c := range []struct {
		args any
		want []byte // nil for no arguments
	}{
		{nil, nil}, {cbor.RawMessage(nil), nil}, {cbor.RawMessage{}, nil},
		{[]byte(nil), []byte{0xf6}}, {[]byte{}, []byte{0x40}}, {"", []byte{0x60}},
		{[]int(nil), []byte{0xf6}}, {[]int{}, []byte{0x80}},
		{map[string]int(nil), []byte{0xf6}}, {map[string]int{}, []byte{0xa0}},
		{(*int)(nil), []byte{0xf6}}, {cbor.RawMessage{0xf7}, []byte{0xf7}},
	} {
		sent := least()
		sent.Args = c.args
		got := unmarshal(t, marshal(t, sent))
		var v any = "old"
		err := got.DecodeArgs(&v)
		if c.want == nil {
			assert.Nil(t, got.Args, "%T %#v", c.args, c.args)
			assert.ErrorIs(t, err, spawnspec.ErrNoArgs)
			assert.Equal(t, "old", v)
			continue
		}
		require.NoError(t, err)
		assert.Equal(t, cbor.RawMessage(c.want), got.Args, "%T %#v", c.args, c.args)
		again := unmarshal(t, marshal(t, *got))
		assert.Equal(t, got.Args, again.Args, "sent on")
	}
}
