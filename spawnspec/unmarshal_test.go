package spawnspec_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"io"
	"maps"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"runtime/metrics"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/fxamacker/cbor/v2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
)

// wireMap is the least spec as a peer in another language would have it.
func wireMap() map[string]any {
	return map[string]any{
		"v": 1, "name": "c", "method": "exec", "depth": 1, "parent": map[string]any{"id": "p"},
	}
}

func encode(t testing.TB, v any) []byte {
	t.Helper()
	data, err := cbor.Marshal(v)
	require.NoError(t, err)
	return data
}

// without is a value that stands for a field that is not there.
type without struct{}

// withField is the least spec with one field set to v; "parent.x" is a field of the parent.
func withField(t testing.TB, field string, v any) []byte {
	t.Helper()
	m := wireMap()
	in := m
	if rest, ok := strings.CutPrefix(field, "parent."); ok {
		in, field = m["parent"].(map[string]any), rest
	}
	in[field] = v
	if v == (any)(without{}) {
		delete(in, field)
	}
	data := []byte{0xa0 + byte(len(m))}
	for _, key := range slices.Sorted(maps.Keys(m)) {
		data = append(data, encode(t, key)...)
		if value, ok := m[key].(cbor.RawMessage); ok {
			data = append(data, value...) // the library would check it
		} else {
			data = append(data, encode(t, m[key])...)
		}
	}
	return data
}

func raw(t testing.TB, hexText string) cbor.RawMessage {
	t.Helper()
	b, err := hex.DecodeString(hexText)
	require.NoError(t, err)
	return b
}

func TestAFieldThatIsWrongIsRefusedByName(t *testing.T) {
	long := strings.Repeat("x", 257)
	texts := func(n int) []string { return strings.Split(strings.Repeat("x", n), "") }
	for _, c := range []struct {
		name, sent string // the field that is sent
		value      any
		field      string // the one that the error names; "" for the same
		says       string
	}{
		{"no version", "v", without{}, "", "missing"},
		{"a version that is text", "v", "1", "", "is text; want an unsigned integer"},
		{"a negative version", "v", -1, "", "is a negative integer"},
		{"a version that is a float", "v", 1.0, "", "is a float"},

		{"no name", "name", without{}, "", "missing"},
		{"an empty name", "name", "", "", "empty"},
		{"a name that is null", "name", nil, "", "is null; want text"},
		{"a name that is undefined", "name", raw(t, "f7"), "", "is undefined; want text"},
		{"a name of bytes", "name", []byte("c"), "", "is a byte string; want text"},
		{"a name under a tag", "name", raw(t, "d9d9f76163"), "", "is a tagged item; want text"},
		{"a long name", "name", long, "", "257 bytes long; at most 256"},
		{"a name with a control character", "name", "a\tb", "", "control character"},
		{"a name that is not UTF-8", "name", raw(t, "61ff"), "", "UTF-8"},
		{"a name of indefinite length", "name", raw(t, "7f6163ff"), "", "indefinite"},

		{"an entry that is a number", "entry", 5, "", "is an unsigned integer; want text"},
		{"an entry that is empty and not left out", "entry", "", "", "empty"},
		{"an entry that is a boolean", "entry", true, "", "is a boolean"},
		{"an entry that is an array", "entry", texts(1), "", "is an array"},
		{"an entry that is a map", "entry", map[string]int{}, "", "is a map"},
		{"an entry that is a simple value", "entry", cbor.SimpleValue(3), "", "is a simple value"},

		{"args of indefinite length", "args", raw(t, "9fff"), "", "indefinite"},
		{"args with indefinite length inside", "args", raw(t, "815f4101ff"), "", "indefinite"},

		{"a number under the tag of a date in args", "args", raw(t, "81c020"), "", "tag number 0 must be followed by text"},
		{"vars that are an array", "vars", texts(1), "", "is an array; want a map"},
		{"vars that are null", "vars", nil, "", "is null; want a map"},
		{"vars with a number for a name", "vars", map[int]int{1: 1}, "", "a key is an unsigned integer; want text"},
		{"vars with an empty name", "vars", map[string]int{"": 1}, "", "a key: empty"},
		{"vars with a name twice", "vars", raw(t, "a2617801617802"), "vars.x", "is there twice"},
		{"a variable with a key twice", "vars", raw(t, "a16178a2617901617902"), "vars.x", "duplicate"},
		{"a variable with a float for a key", "vars", raw(t, "a16178a1f93e0001"), "vars.x", "a key of a map is a float64"},
		{"a variable deep inside with null for a key", "vars", raw(t, "a1617881d864a1f601"), "vars.x", "a key of a map is a <nil>"},
		{"a variable with a time that has no text", "vars", raw(t, "a16178c11b0000ffffffffffff"), "vars.x", "year"},
		{"a variable with a time that is none", "vars", raw(t, "a16178c06178"), "vars.x", "time"},

		{"modules that are text", "modules", "m", "", "is text; want an array"},
		{"modules of indefinite length", "modules", raw(t, "9fff"), "", "indefinite"},
		{"an empty module", "modules", []string{""}, "modules[0]", "empty"},
		{"a module that is a number", "modules", []any{"m", 1}, "modules[1]", "is an unsigned integer; want text"},
		{"a long module", "modules", []string{long}, "modules[0]", "257 bytes"},
		{"too many modules", "modules", texts(1025), "", "1025 elements; at most 1024"},

		{"a registry address that is none", "registry", []string{"x"}, "registry[0]", `no "://"`},
		{"an address to listen on that is none", "bind", []string{"tcp://127.0.0.1:0", "tcp://127.0.0.1"}, "bind[1]", "is not host:port"},
		{"an address that is empty", "bind", []string{""}, "bind[0]", "empty"},
		{"an address that is null", "bind", []any{nil}, "bind[0]", "is null; want text"},
		{"an address that is huge", "bind", []string{strings.Repeat("x", 40000)}, "bind[0]", "40000 bytes long; at most 32767"},
		{"too many addresses", "bind", texts(1025), "", "1025 elements"},

		{"a relative directory", "dir", "tmp", "", `"tmp" is not absolute`},
		{"a directory that is empty and not left out", "dir", "", "", "empty"},
		{"an unknown log level", "log", "LOUD", "", "want DEBUG, INFO, WARN or ERROR"},
		{"a log level that is a number", "log", 4, "", "is an unsigned integer; want text"},
		{"a log level with half an offset", "log", "INFO+", "", "offset"},
		{"a log level that overflows", "log", "ERROR+" + strconv.Itoa(math.MaxInt), "", "out of range"},
		{"a log level that overflows downwards", "log", "DEBUG" + strconv.Itoa(math.MinInt), "", "out of range"},
		{"a huge log level", "log", long, "", "257 bytes"},

		{"a deadline that is text", "deadline", "2030-01-01T00:00:00Z", "", "is text; want an integer"},
		{"a deadline that is a float", "deadline", 1.5e9, "", "is a float; want an integer"},
		{"a deadline beyond 64 bits", "deadline", uint64(math.MaxUint64), "", "out of range"},
		{"a deadline below 64 bits", "deadline", raw(t, "3b8000000000000000"), "", "out of range"},

		{"no method", "method", without{}, "", "missing"},
		{"an empty method", "method", "", "", "empty"},
		{"no depth", "depth", without{}, "", "missing"},
		{"depth of a root", "depth", 0, "", "0 is out of range; want 1 to 1000"},
		{"a negative depth", "depth", -1, "", "is a negative integer"},
		{"too many generations", "depth", 1001, "", "1001 is out of range"},
		{"a negative grace", "grace", -1, "", "is a negative integer"},
		{"a grace beyond 63 bits", "grace", uint64(1) << 63, "", "out of range"},
		{"a depth beyond all", "depth", uint64(math.MaxUint64), "", "out of range"},

		{"no parent", "parent", without{}, "", "missing"},
		{"a parent that is text", "parent", "p", "", "is text; want a map"},
		{"a parent of indefinite length", "parent", raw(t, "bfff"), "", "indefinite"},
		{"a parent with a number for a key", "parent", map[int]string{1: "p"}, "", "a key is an unsigned integer"},
		{"a parent's key twice", "parent", raw(t, "a262696461706269646170"), "parent.id", "is there twice"},
		{"no parent's id", "parent.id", without{}, "", "missing"},
		{"an empty parent's id", "parent.id", "", "", "empty"},
		{"a parent's id that is a number", "parent.id", 7, "", "is an unsigned integer"},
		{"a bad parent's name", "parent.name", "a\nb", "", "control character"},
		{"a negative process id", "parent.pid", -4, "", "is a negative integer"},
		{"a process id beyond all", "parent.pid", uint64(1) << 31, "", "out of range"},

		{"an unknown field that is malformed", "new", raw(t, "9fff"), "", "indefinite"},
		{"an unknown field with a tag", "new", raw(t, "81c100"), "", "tag"},
		{"an unknown field with a key twice", "new", raw(t, "a2617801617802"), "", "twice"},
		{"an unknown field of the parent with a tag", "parent.new", raw(t, "c100"), "", "tag"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := spawnspec.Unmarshal(withField(t, c.sent, c.value))
			require.Error(t, err)
			assert.Nil(t, s)
			want := c.field
			if want == "" {
				want = c.sent
			}
			assert.Equal(t, want, fieldError(t, err).Field)
			assert.Contains(t, err.Error(), c.says)
		})
	}
}

func TestWhatAPeerMayDoIsAccepted(t *testing.T) {
	for _, c := range []struct {
		name, field string
		value       any
	}{
		{"no entry", "entry", without{}},
		{"null for args", "args", nil},
		{"args under a tag", "args", raw(t, "d9d9f76163")},
		{"null for a variable", "vars", map[string]any{"x": nil}},
		{"more variables than a map may have fields", "vars", func() map[string]any {
			m := map[string]any{}
			for i := range 1000 {
				m["x"+strconv.Itoa(i)] = i
			}
			return m
		}()},
		{"an empty list", "bind", []string{}},
		{"empty vars", "vars", map[string]any{}},
		{"a log level in small letters", "log", "warn+1"},
		{"a longer form of a number than it needs", "depth", raw(t, "1b0000000000000001")},
		{"an unknown field", "new", map[string]any{"a": []int{1}}},
		{"an unknown field of the parent", "parent.host", "h"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := unmarshal(t, withField(t, c.field, c.value))
			assert.Equal(t, "c", s.Name)
			assert.Equal(t, "p", s.Parent.ID)
			again := unmarshal(t, marshal(t, *s))
			assert.Equal(t, s, again)
		})
	}
}

func TestArgsKeepEveryByte(t *testing.T) {
	want := raw(t, "d9d9f7a2617a01616182190001fa3f800000") // a tag, keys not in order, numbers not the shortest
	s := unmarshal(t, withField(t, "args", want))
	assert.Equal(t, want, s.Args)
	assert.Contains(t, string(marshal(t, *s)), string(want))
}

func TestAnotherVersionIsAnErrorThatNamesBoth(t *testing.T) {
	for _, v := range []uint64{0, 2, math.MaxUint64} {
		m := wireMap()
		m["v"] = v
		delete(m, "name") // what else another version has wrong does not matter
		_, err := spawnspec.Unmarshal(encode(t, m))
		var versionErr *spawnspec.VersionError
		require.ErrorAs(t, err, &versionErr)
		assert.Equal(t, spawnspec.VersionError{Got: v, Want: spawnspec.Version}, *versionErr)
		assert.Contains(t, err.Error(), strconv.FormatUint(v, 10))
	}
}

func TestWhatIsNotOneMapIsRefused(t *testing.T) {
	good := encode(t, wireMap())
	many := map[string]int{}
	for i := range 257 {
		many["x"+strconv.Itoa(i)] = i
	}
	for _, c := range []struct {
		name string
		data []byte
		says string
	}{
		{"nothing", nil, "unexpected EOF"},
		{"text", encode(t, "x"), "is text; want a map"},
		{"an array", encode(t, []int{1}), "is an array; want a map"},
		{"null", encode(t, nil), "is null; want a map"},
		{"a map under a tag", append(raw(t, "d9d9f7"), good...), "is a tagged item; want a map"},
		{"a map of indefinite length", append(append([]byte{0xbf}, good[1:]...), 0xff), "indefinite length"},
		{"a reserved start", []byte{0xbc}, "reserved initial byte 0xbc"},
		{"half a head", []byte{0xb9, 1}, "unexpected EOF"},
		{"a byte too many", append(bytes.Clone(good), 0), "1 bytes follow the map"},
		{"too many fields", encode(t, many), "257 fields; at most 256"},
		{"a count that lies", []byte{0xbb, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, "at most 256"},
		{"a key that is a number", encode(t, map[int]int{1: 1}), "a key is an unsigned integer; want text"},
		{"a key that is null", raw(t, "a1f601"), "a key is null; want text"},
		{"a key that is not UTF-8", raw(t, "a161ff01"), "UTF-8"},
		{"a key that is empty", raw(t, "a16001"), "a key: empty"},
		{"a key of indefinite length", raw(t, "a17f6176ff01"), "indefinite"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := spawnspec.Unmarshal(c.data)
			require.Error(t, err)
			assert.Contains(t, err.Error(), "spawnspec: malformed: ")
			assert.Contains(t, err.Error(), c.says)
		})
	}
}

func TestAKeyThatIsThereTwiceIsRefusedByName(t *testing.T) {
	for _, key := range []string{"v", "name", "new"} {
		twice := append([]byte{0xa2}, bytes.Repeat(append(encode(t, key), 1), 2)...)
		_, err := spawnspec.Unmarshal(twice)
		assert.Equal(t, key, fieldError(t, err).Field)
		assert.Contains(t, err.Error(), "is there twice")
	}
}

func TestASpecThatIsCutAnywhereIsRefused(t *testing.T) {
	sent := full(t)
	data := marshal(t, sent)
	for n := range data {
		_, err := spawnspec.Unmarshal(data[:n])
		require.ErrorIs(t, err, io.ErrUnexpectedEOF, "cut to %d of %d bytes", n, len(data))
	}
}

func FuzzUnmarshal(f *testing.F) {
	sent := full(f)
	f.Add(marshal(f, sent))
	f.Add(marshal(f, least()))
	f.Add(withField(f, "new", []any{1, "x"}))
	f.Add(withField(f, "log", "warn+1"))
	for _, args := range []string{"d9d9f7a2617a01616182190001fa3f800000", "f7", "c11a514b67b0", "a1c074323031332d30332d32315432303a30343a30305a01"} {
		f.Add(withField(f, "args", raw(f, args)))
		f.Add(withField(f, "vars", map[string]any{"x": raw(f, args)}))
	}
	for _, payload := range vectorSpecs(f) {
		f.Add(payload)
	}
	f.Fuzz(readAgain)
}

// vectorSpecs returns the specs in testdata/, which package handshake makes.
func vectorSpecs(t testing.TB) (payloads [][]byte) {
	t.Helper()
	type frame struct{ Kind, Payload string }
	var file struct {
		Spec      frame
		Tolerated []frame
	}
	text, err := os.ReadFile(filepath.Join("..", "testdata", "child.json"))
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, &file))
	for _, f := range append(file.Tolerated, file.Spec) {
		if f.Kind == "spec" {
			payloads = append(payloads, raw(t, f.Payload))
		}
	}
	return payloads
}

func TestTheSpecsOfTheVectorsAreRead(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("the paths are those of Unix")
	}
	payloads := vectorSpecs(t)
	assert.NotEmpty(t, payloads)
	for _, payload := range payloads {
		s, err := spawnspec.Unmarshal(payload)
		require.NoError(t, err)
		assert.NotEmpty(t, s.Parent.ID)
	}
}

// FuzzArgsAndVars makes only what is opaque to the spec, so that it gets deeper.
func FuzzArgsAndVars(f *testing.F) {
	for _, seed := range []string{"00", "a1f97e0001", "a2c11a514b67b001c074323031332d30332d32315432303a30343a30305a02", "c249010000000000000000", "d864a14101f6"} {
		f.Add([]byte(raw(f, seed)))
	}
	f.Fuzz(func(t *testing.T, item []byte) {
		readAgain(t, withField(t, "args", cbor.RawMessage(item)))
		readAgain(t, withField(t, "vars", append(cbor.RawMessage{0xa1, 0x61, 'x'}, item...)))
	})
}

// roughlyAllocated returns how many bytes this process has ever allocated; it may lag by less than a megabyte.
func roughlyAllocated() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

// readAgain checks that data is refused in words, or else can be written again and read as the same.
func readAgain(t *testing.T, data []byte) {
	before := roughlyAllocated()
	s, err := spawnspec.Unmarshal(data)
	require.Less(t, roughlyAllocated()-before, uint64(300*len(data)+1<<20), "memory that the bytes do not explain")
	if err != nil {
		assert.Nil(t, s)
		assert.True(t, strings.HasPrefix(err.Error(), "spawnspec: "), err.Error())
		return
	}
	require.NoError(t, s.Validate())
	first := marshal(t, *s)
	again := unmarshal(t, first)
	assert.Equal(t, first, marshal(t, *again))

	// Bytes say it all about vars; as values, NaN is not equal to itself, and undefined became null.
	s.Vars, again.Vars = nil, nil
	assert.Equal(t, s, again)
	for _, a := range append(s.Bind, s.Registry...) {
		text, err := a.MarshalText()
		require.NoError(t, err)
		back, err := transport.ParseAddr(string(text))
		require.NoError(t, err)
		assert.Equal(t, a, back)
	}
	var v any
	_ = s.DecodeArgs(&v) // any error, no panic
}
