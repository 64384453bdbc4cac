package spawnspec_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"log/slog"
	"math"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
)

type resize struct {
	Width, Height int
	Format        string
	At            time.Time
}

func mustAddr(t testing.TB, text string) transport.Addr {
	t.Helper()
	a, err := transport.ParseAddr(text)
	require.NoError(t, err)
	return a
}

// least has what a spec must have and no more.
func least() spawnspec.Spec {
	return spawnspec.Spec{
		Name: "c", Entry: "e", Method: "exec", Depth: 1, Parent: spawnspec.Identity{ID: "p"},
	}
}

// full has something in every field.
func full(t testing.TB) spawnspec.Spec {
	t.Helper()
	return spawnspec.Spec{
		Name:  "größer-1",
		Entry: "resize",
		Args:  resize{640, 480, "webp", time.Date(2026, 5, 4, 3, 2, 1, 123456789, time.FixedZone("", 2*3600))},
		Vars: map[string]any{
			"text": "x", "bytes": []byte{1}, "yes": true, "none": nil, "half": 0.5, "count": 7, "below": -7,
			"list": []any{"a", 1}, "map": map[string]any{"b": 2}, "when": time.Unix(1, 5).UTC(),
		},
		Modules:  []string{"metrics", "cache"},
		Registry: []transport.Addr{mustAddr(t, "uds://@registry"), mustAddr(t, "tcp://localhost:7000")},
		Bind:     []transport.Addr{mustAddr(t, "tcp://[::1]:0")},
		Dir:      t.TempDir(),
		LogLevel: slog.LevelDebug - 2,
		Deadline: time.Date(2030, 1, 2, 3, 4, 5, 6, time.UTC),
		Method:   "forkserver",
		Depth:    3,
		Grace:    1500 * time.Millisecond,
		Parent:   spawnspec.Identity{ID: "p-1", Name: "gallery", PID: 4711},
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

// fieldError is the FieldError that err must be.
func fieldError(t testing.TB, err error) *spawnspec.FieldError {
	t.Helper()
	var fieldErr *spawnspec.FieldError
	require.ErrorAs(t, err, &fieldErr)
	return fieldErr
}

func TestEveryFieldComesThrough(t *testing.T) {
	sent := full(t)
	got := unmarshal(t, marshal(t, sent))

	var args resize
	require.NoError(t, got.DecodeArgs(&args))
	assert.True(t, sent.Args.(resize).At.Equal(args.At), "times in args keep their nanoseconds")
	_, offset := args.At.Zone()
	assert.Equal(t, 2*3600, offset, "and their zone")
	args.At = sent.Args.(resize).At
	assert.Equal(t, sent.Args, args)

	assert.Equal(t, map[string]any{
		"text": "x", "bytes": []byte{1}, "yes": true, "none": nil, "half": 0.5, "count": uint64(7), "below": int64(-7),
		"list": []any{"a", uint64(1)}, "map": map[any]any{"b": uint64(2)}, "when": time.Unix(1, 5).UTC(),
	}, got.Vars)

	sent.Args, got.Args, sent.Vars, got.Vars = nil, nil, nil, nil
	assert.Equal(t, &sent, got)
}

func TestTheLeastSpecComesThroughWithZeroValues(t *testing.T) {
	sent := least()
	got := unmarshal(t, marshal(t, sent))
	assert.Equal(t, &sent, got)
	assert.Nil(t, got.Args)
	assert.Equal(t, slog.LevelInfo, got.LogLevel)
	assert.True(t, got.Deadline.IsZero())
}

func TestTheLeastSpecHasTheseBytes(t *testing.T) {
	const want = "a6" + // a map of 6
		"617601" + // "v": 1
		"646e616d656163" + // "name": "c"
		"65646570746801" + // "depth": 1
		"65656e7472796165" + // "entry": "e"
		"666d6574686f646465786563" + // "method": "exec"
		"66706172656e74a16269646170" // "parent": {"id": "p"}
	assert.Equal(t, want, hex.EncodeToString(marshal(t, least())))
}

func TestAFullSpecHasTheseFieldsOnTheWire(t *testing.T) {
	sent := full(t)
	var wire map[string]any
	require.NoError(t, cbor.Unmarshal(marshal(t, sent), &wire))
	delete(wire, "args")
	delete(wire, "vars")
	assert.Equal(t, map[string]any{
		"v":        uint64(1),
		"name":     "größer-1",
		"entry":    "resize",
		"modules":  []any{"metrics", "cache"},
		"registry": []any{"uds://@registry", "tcp://localhost:7000"},
		"bind":     []any{"tcp://[::1]:0"},
		"dir":      sent.Dir,
		"log":      "DEBUG-2",
		"deadline": uint64(sent.Deadline.UnixNano()),
		"method":   "forkserver",
		"depth":    uint64(3),
		"grace":    uint64(1_500_000_000),
		"parent":   map[any]any{"id": "p-1", "name": "gallery", "pid": uint64(4711)},
	}, wire)
}

func TestTheSameSpecGivesTheSameBytes(t *testing.T) {
	sent := full(t)
	sent.Args = map[string]map[int]string{"x": {1: "a", 2: "b", 3: "c"}, "y": {}, "z": nil}
	first := marshal(t, sent)
	for range 50 { // Go walks a map in another order each time
		require.Equal(t, first, marshal(t, sent))
	}
	got := unmarshal(t, first)
	assert.Equal(t, first, marshal(t, *got), "also after a round trip")
}

func TestUnmarshalKeepsNothingOfItsInput(t *testing.T) {
	sent := full(t)
	data := marshal(t, sent)
	got := unmarshal(t, data)
	clear(data)
	assert.Equal(t, marshal(t, sent), marshal(t, *got))
}

func TestALogLevelComesThrough(t *testing.T) {
	for _, level := range []slog.Level{
		slog.LevelDebug, slog.LevelInfo, slog.LevelInfo + 1, slog.LevelWarn, slog.LevelError, slog.LevelError + 100,
		math.MaxInt, math.MinInt,
	} {
		sent := least()
		sent.LogLevel = level
		assert.Equal(t, level, unmarshal(t, marshal(t, sent)).LogLevel)
	}
}

func TestADeadlineComesThroughAsTheSameMomentInUTC(t *testing.T) {
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

func TestArgsAreTheSameBeforeAndAfterTheTrip(t *testing.T) {
	raw, err := cbor.Marshal("raw")
	require.NoError(t, err)
	for _, c := range []struct {
		name       string
		args, into any
		want       any
	}{
		{"a struct", resize{Width: 3}, new(resize), &resize{Width: 3}},
		{"a pointer to a struct", &resize{Width: 3}, new(resize), &resize{Width: 3}},
		{"a map", map[string]int{"a": 1}, new(map[string]int), &map[string]int{"a": 1}},
		{"a text", "x", new(string), func() *string { s := "x"; return &s }()},
		{"a nil map, which is null and not nothing", map[string]int(nil), new(map[string]int), new(map[string]int)},
		{"what was encoded already", cbor.RawMessage(raw), new(string), func() *string { s := "raw"; return &s }()},
		{"more elements than the library takes by default", make([]int, 200_000), new([]int), func() *[]int { s := make([]int, 200_000); return &s }()},
		{"a map with keys of any kind", map[any]any{1.5: "x", nil: "y"}, new(any), func() *any { var v any = map[any]any{1.5: "x", nil: "y"}; return &v }()},
	} {
		t.Run(c.name, func(t *testing.T) {
			sent := least()
			sent.Args = c.args
			require.NoError(t, sent.Validate())
			require.NoError(t, sent.DecodeArgs(c.into))
			assert.Equal(t, c.want, c.into, "before")

			got := unmarshal(t, marshal(t, sent))
			assert.IsType(t, cbor.RawMessage{}, got.Args)
			require.NoError(t, got.DecodeArgs(c.into))
			assert.Equal(t, c.want, c.into, "after")
		})
	}
}

func TestNoArgsIsAnErrorOfItsOwn(t *testing.T) {
	for _, args := range []any{nil, cbor.RawMessage(nil), cbor.RawMessage{}} {
		sent := least()
		sent.Args = args
		v := "as it was"
		require.ErrorIs(t, sent.DecodeArgs(&v), spawnspec.ErrNoArgs)
		require.ErrorIs(t, unmarshal(t, marshal(t, sent)).DecodeArgs(&v), spawnspec.ErrNoArgs)
		assert.Equal(t, "as it was", v)
	}
}

func TestArgsThatDoNotFitAreAnErrorOfArgs(t *testing.T) {
	sent := least()
	sent.Args = "text"
	var n int
	err := sent.DecodeArgs(&n)
	assert.Equal(t, "args", fieldError(t, err).Field)
	assert.Contains(t, err.Error(), "cannot be decoded into *int")
	var typeErr *cbor.UnmarshalTypeError
	assert.ErrorAs(t, err, &typeErr)

	assert.Equal(t, "args", fieldError(t, sent.DecodeArgs(nil)).Field)

	sent.Args = cbor.RawMessage("\xa2\x61x\x01\x61x\x02") // {"x": 1, "x": 2}
	var m map[string]int
	err = unmarshal(t, marshal(t, sent)).DecodeArgs(&m)
	var dup *cbor.DupMapKeyError
	require.ErrorAs(t, err, &dup, "a duplicate key in args is found when they are decoded")
	assert.Equal(t, "args", fieldError(t, err).Field)
}

func TestALevelDeeperThanArgsMayBeIsRefusedOnBothSides(t *testing.T) {
	nested := func(levels int) cbor.RawMessage { return append(bytes.Repeat([]byte{0x81}, levels), 0) }

	sent := least()
	sent.Args = nested(63)
	var v any
	require.NoError(t, unmarshal(t, marshal(t, sent)).DecodeArgs(&v))
	sent.Args = nested(64)
	assert.Equal(t, "args", fieldError(t, sent.Validate()).Field)

	sent = least()
	sent.Vars = map[string]any{"x": nested(62)}
	unmarshal(t, marshal(t, sent))
	sent.Vars["x"] = nested(63)
	assert.Equal(t, "vars.x", fieldError(t, sent.Validate()).Field)

	_, err := spawnspec.Unmarshal(withField(t, "args", nested(64)))
	assert.Equal(t, "args", fieldError(t, err).Field)
	_, err = spawnspec.Unmarshal(withField(t, "vars", map[string]any{"x": nested(63)}))
	assert.Equal(t, "vars", fieldError(t, err).Field)
	_, err = spawnspec.Unmarshal(withField(t, "new", nested(7)))
	require.NoError(t, err)
	_, err = spawnspec.Unmarshal(withField(t, "new", nested(8)))
	assert.Equal(t, "new", fieldError(t, err).Field)
}

func TestAValueThatIsNotAllowedIsRefusedBeforeItIsSent(t *testing.T) {
	good := transport.Addr{Scheme: transport.SchemeTCP, Target: "127.0.0.1:1"}
	long := strings.Repeat("x", 257)
	for _, c := range []struct {
		name, field, says string
		spoil             func(s *spawnspec.Spec)
	}{
		{"no name and no entry", "name", "empty, and there is no entry", func(s *spawnspec.Spec) { s.Name, s.Entry = "", "" }},
		{"a long name", "name", "257 bytes long; at most 256", func(s *spawnspec.Spec) { s.Name = long }},
		{"a name that is not UTF-8", "name", "not UTF-8", func(s *spawnspec.Spec) { s.Name = "a\xff" }},
		{"a name with a line feed", "name", `"a\nb" has a control character`, func(s *spawnspec.Spec) { s.Name = "a\nb" }},
		{"a name with a C1 control", "name", "control character", func(s *spawnspec.Spec) { s.Name = "a\u0085" }},
		{"a long entry", "entry", "257 bytes", func(s *spawnspec.Spec) { s.Entry = long }},
		{"args that CBOR has no form for", "args", "chan int cannot be encoded", func(s *spawnspec.Spec) { s.Args = make(chan int) }},
		{"raw args that are cut", "args", "unexpected EOF", func(s *spawnspec.Spec) { s.Args = cbor.RawMessage{0x82, 1} }},
		{"raw args of two items", "args", "1 bytes follow", func(s *spawnspec.Spec) { s.Args = cbor.RawMessage{1, 2} }},
		{"raw args of indefinite length", "args", "indefinite", func(s *spawnspec.Spec) { s.Args = cbor.RawMessage{0x9f, 0xff} }},
		{"a number under the tag of a date", "args", "tag number 0 must be followed by text", func(s *spawnspec.Spec) { s.Args = []any{cbor.Tag{Number: 0, Content: 5}} }},
		{"a time that RFC 3339 cannot say", "args", "year", func(s *spawnspec.Spec) { s.Args = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) }},
		{"a variable that CBOR has no form for", "vars.x", "func() cannot be encoded", func(s *spawnspec.Spec) { s.Vars = map[string]any{"x": func() {}} }},
		{"a variable without a name", "vars", "empty", func(s *spawnspec.Spec) { s.Vars = map[string]any{"": 1} }},
		{"a variable that is not UTF-8", "vars.x", "UTF-8", func(s *spawnspec.Spec) { s.Vars = map[string]any{"x": "\xff"} }},
		{"a variable with a float for a key", "vars.x", "a key of a map is a float64", func(s *spawnspec.Spec) { s.Vars = map[string]any{"x": map[float64]int{math.NaN(): 1}} }},
		{"a variable with duplicate keys", "vars.x", "duplicate", func(s *spawnspec.Spec) {
			s.Vars = map[string]any{"x": cbor.RawMessage("\xa2\x61x\x01\x61x\x02")}
		}},
		{"an empty module", "modules[0]", "empty", func(s *spawnspec.Spec) { s.Modules = []string{""} }},
		{"too many modules", "modules", "1025 elements; at most 1024", func(s *spawnspec.Spec) { s.Modules = make([]string, 1025) }},
		{"no registry address", "registry[1]", "no address", func(s *spawnspec.Spec) { s.Registry = []transport.Addr{good, {}} }},
		{"a bad registry address", "registry[0]", "unknown scheme", func(s *spawnspec.Spec) { s.Registry = []transport.Addr{{Scheme: "udp", Target: "x"}} }},
		{"a bad address to listen on", "bind[1]", "is not host:port", func(s *spawnspec.Spec) { s.Bind = []transport.Addr{good, {Scheme: "tcp", Target: "x"}} }},
		{"an address that is not UTF-8", "bind[0]", "not UTF-8", func(s *spawnspec.Spec) { s.Bind = []transport.Addr{{Scheme: "uds", Target: "@\xff"}} }},
		{"too many addresses", "bind", "1025 elements", func(s *spawnspec.Spec) { s.Bind = make([]transport.Addr, 1025) }},
		{"a relative directory", "dir", `"tmp" is not absolute`, func(s *spawnspec.Spec) { s.Dir = "tmp" }},
		{"a directory with NUL", "dir", "NUL", func(s *spawnspec.Spec) { s.Dir += "\x00" }},
		{"a long directory", "dir", "at most 32767", func(s *spawnspec.Spec) { s.Dir += strings.Repeat("x", 32767) }},
		{"a directory that is not UTF-8", "dir", "not UTF-8", func(s *spawnspec.Spec) { s.Dir += "\xff" }},
		{"a deadline long ago", "deadline", "year 1600 is out of range", func(s *spawnspec.Spec) { s.Deadline = time.Date(1600, 1, 1, 0, 0, 0, 0, time.UTC) }},
		{"a deadline too far", "deadline", "year 2300 is out of range", func(s *spawnspec.Spec) { s.Deadline = time.Date(2300, 1, 1, 0, 0, 0, 0, time.UTC) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := full(t)
			c.spoil(&s)
			err := s.Validate()
			assert.Equal(t, c.field, fieldError(t, err).Field)
			assert.Contains(t, err.Error(), `spawnspec: field "`+c.field+`": `)
			assert.Contains(t, err.Error(), c.says)
			_, marshalErr := spawnspec.Marshal(&s)
			require.Error(t, marshalErr)
			assert.Equal(t, err.Error(), marshalErr.Error())
		})
	}
}

func TestWhatTheSpawnerForgotIsRefusedByMarshalAndNotByValidate(t *testing.T) {
	for _, c := range []struct {
		name, field string
		spoil       func(s *spawnspec.Spec)
	}{
		{"a name still to be taken from the entry", "name", func(s *spawnspec.Spec) { s.Name = "" }},
		{"no method", "method", func(s *spawnspec.Spec) { s.Method = "" }},
		{"a method with a control character", "method", func(s *spawnspec.Spec) { s.Method = "exec\n" }},
		{"depth of a root", "depth", func(s *spawnspec.Spec) { s.Depth = 0 }},
		{"negative depth", "depth", func(s *spawnspec.Spec) { s.Depth = -1 }},
		{"too many generations", "depth", func(s *spawnspec.Spec) { s.Depth = 1001 }},
		{"negative grace", "grace", func(s *spawnspec.Spec) { s.Grace = -1 }},
		{"no parent", "parent.id", func(s *spawnspec.Spec) { s.Parent = spawnspec.Identity{} }},
		{"a bad parent's name", "parent.name", func(s *spawnspec.Spec) { s.Parent.Name = "\x00" }},
		{"a negative process id", "parent.pid", func(s *spawnspec.Spec) { s.Parent.PID = -1 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := full(t)
			c.spoil(&s)
			assert.NoError(t, s.Validate())
			_, err := spawnspec.Marshal(&s)
			assert.Equal(t, c.field, fieldError(t, err).Field)
		})
	}
}

func TestACauseCanBeReached(t *testing.T) {
	s := least()
	s.Bind = []transport.Addr{{Scheme: "udp", Target: "x"}}
	var addrErr *transport.AddrError
	assert.ErrorAs(t, s.Validate(), &addrErr)

	cause := errors.New("why")
	assert.ErrorIs(t, &spawnspec.FieldError{Field: "f", Reason: "r", Err: cause}, cause)
	assert.Equal(t, `spawnspec: field "f": r: why`, (&spawnspec.FieldError{Field: "f", Reason: "r", Err: cause}).Error())
	assert.Equal(t, `spawnspec: field "f": r`, (&spawnspec.FieldError{Field: "f", Reason: "r"}).Error())
}

func TestBigNumbersAndTagsInVarsComeThrough(t *testing.T) {
	huge := new(big.Int).Lsh(big.NewInt(1), 100)
	sent := least()
	sent.Vars = map[string]any{
		"huge": huge, "max": uint64(math.MaxUint64), "tag": cbor.Tag{Number: 1000, Content: "x"}, "simple": cbor.SimpleValue(99),
	}
	got := unmarshal(t, marshal(t, sent))
	assert.Equal(t, *huge, got.Vars["huge"])
	assert.Equal(t, uint64(math.MaxUint64), got.Vars["max"])
	assert.Equal(t, sent.Vars["tag"], got.Vars["tag"])
	assert.Equal(t, sent.Vars["simple"], got.Vars["simple"])
}
