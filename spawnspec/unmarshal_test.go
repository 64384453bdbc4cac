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
)

// wireMap returns the least spec, as a program in another language encodes it.
func wireMap() map[string]any {
	return map[string]any{"v": 1, "name": "c", "method": "exec", "depth": 1}
}

func encode(t testing.TB, v any) []byte {
	t.Helper()
	data, err := cbor.Marshal(v)
	require.NoError(t, err)
	return data
}

// without is the value of an omitted field.
type without struct{}

// withField returns the least spec with one field set to v.
func withField(t testing.TB, field string, v any) []byte {
	t.Helper()
	m := wireMap()
	m[field] = v
	if v == (any)(without{}) {
		delete(m, field)
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

func TestUnmarshal_NamesTheWrongField(t *testing.T) {
	long := strings.Repeat("x", 257)
	for _, c := range []struct {
		name, field string
		value       any
		text        string
	}{
		{"no version", "v", without{}, "missing"},
		{"a version that is text", "v", "1", "is text; want an unsigned integer"},
		{"a negative version", "v", -1, "is a negative integer"},
		{"a version that is a float", "v", 1.0, "is a float"},

		{"no name", "name", without{}, "missing"},
		{"an empty name", "name", "", "empty"},
		{"a name that is null", "name", nil, "is null; want text"},
		{"a name that is undefined", "name", raw(t, "f7"), "is undefined; want text"},
		{"a name of bytes", "name", []byte("c"), "is a byte string; want text"},
		{"a name under a tag", "name", raw(t, "d9d9f76163"), "is a tag; want text"},
		{"a long name", "name", long, "257 bytes long; at most 256"},
		{"a name with a control character", "name", "a\tb", "control character"},
		{"a name that is not UTF-8", "name", raw(t, "61ff"), "UTF-8"},
		{"a name of indefinite length", "name", raw(t, "7f6163ff"), "indefinite"},

		{"an entry that is a number", "entry", 5, "is an unsigned integer; want text"},
		{"an empty entry", "entry", "", "empty"},
		{"an entry that is a boolean", "entry", true, "is a boolean"},
		{"an entry that is an array", "entry", []int{}, "is an array"},
		{"an entry that is a map", "entry", map[string]int{}, "is a map"},
		{"an entry that is a simple value", "entry", cbor.SimpleValue(3), "is a simple value"},

		{"args of indefinite length", "args", raw(t, "9fff"), "indefinite"},
		{"args with indefinite length inside", "args", raw(t, "815f4101ff"), "indefinite"},
		{"args with text that is not UTF-8", "args", raw(t, "62c080"), "not UTF-8"},
		{"args with such text inside", "args", raw(t, "81a10161e9"), "not UTF-8"},
		{"args with such a key", "args", raw(t, "a161e901"), "not UTF-8"},
		{"args with a simple value that is not well-formed", "args",
			raw(t, "f818"), "not well-formed"},

		{"a relative directory", "dir", "tmp", `"tmp" is not absolute`},
		{"an empty directory", "dir", "", "empty"},
		{"an unknown log level", "log", "LOUD", "want DEBUG, INFO, WARN or ERROR"},
		{"a log level that is a number", "log", 4, "is an unsigned integer; want text"},
		{"a log level with half an offset", "log", "INFO+", "offset"},
		{"a log level in small letters", "log", "warn+1", "is no level"},
		{"a log level in letters that become capitals of ASCII", "log", "ıNFO", "is no level"},
		{"a log level with two signs", "log", "INFO+-2", "is no level"},
		{"a log level with an offset of ten digits", "log", "INFO+0000000001", "is no level"},
		{"a huge log level", "log", long, strings.Repeat("x", 40) + `" is no level`},

		{"a deadline that is text", "deadline", "2030-01-01T00:00:00Z", "is text; want an integer"},
		{"a deadline that is a float", "deadline", 1.5e9, "is a float; want an integer"},
		{"a deadline beyond 64 bits", "deadline", uint64(math.MaxUint64), "out of range"},
		{"a deadline below 64 bits", "deadline", raw(t, "3b8000000000000000"), "out of range"},

		{"no method", "method", without{}, "missing"},
		{"an empty method", "method", "", "empty"},
		{"no depth", "depth", without{}, "missing"},
		{"the depth of a root", "depth", 0, "0 is out of range; want 1 to 1000"},
		{"a negative depth", "depth", -1, "is a negative integer"},
		{"too many generations", "depth", 1001, "1001 is out of range"},
		{"a depth of 64 bits", "depth", uint64(math.MaxUint64), "out of range"},
		{"a negative silence", "silence", -1, "is a negative integer"},
		{"a negative grace", "grace", -1, "is a negative integer"},
		{"a grace beyond 63 bits", "grace", uint64(1) << 63, "out of range"},

		{"an unknown field of indefinite length", "new", raw(t, "9fff"), "indefinite"},
		{"an unknown field with a tag", "new", raw(t, "81c100"), "a tag is not allowed"},
		{"an unknown field that nests too deep", "new",
			append(bytes.Repeat([]byte{0x81}, 8), 0), "levels of nesting"},
	} {
		t.Run(c.name, func(t *testing.T) {
			value := c.value
			if b, ok := value.([]byte); ok && c.field == "new" {
				value = cbor.RawMessage(b)
			}
			s, err := spawnspec.Unmarshal(withField(t, c.field, value))
			require.Error(t, err)
			assert.Nil(t, s)
			assert.Equal(t, c.field, fieldOf(t, err))
			assert.Contains(t, err.Error(), c.text)
		})
	}
	_, err := spawnspec.Unmarshal(withField(t, "new", raw(t, "a2617801617802")))
	assert.Equal(t, "new.x", fieldOf(t, err))
	assert.ErrorContains(t, err, "is there twice")
}

// An implementation in another language found this spec. The text "\x80" in its
// args is not UTF-8.
func TestUnmarshal_RefusesTextInArgsThatIsNotUTF8(t *testing.T) {
	data := raw(t, "a678046e616d65616365646570746801646172677363eda080617601666d6574686f6478046578656366706172656e74a1626964780170")
	_, err := spawnspec.Unmarshal(data)
	assert.Equal(t, "args", fieldOf(t, err))
	assert.ErrorContains(t, err, "not UTF-8")
}

func TestUnmarshal_TakesUnusualForms(t *testing.T) {
	for _, c := range []struct {
		name, field string
		value       any
	}{
		{"no entry", "entry", without{}},
		{"null for args", "args", nil},
		{"args under a tag", "args", raw(t, "d9d9f76163")},
		{"args with a number under the tag of a date", "args", raw(t, "81c020")},
		{"a log level with an offset of nine digits", "log", "INFO-000000001"},
		{"a longer form of a number than it needs", "depth", raw(t, "1b0000000000000001")},
		{"an unknown field", "new", map[string]any{"a": []int{1}}},
		{"an unknown field that nests as deep as it may", "new",
			append(cbor.RawMessage(bytes.Repeat([]byte{0x81}, 7)), 0)},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := unmarshal(t, withField(t, c.field, c.value))
			assert.Equal(t, "c", s.Name)
			again := unmarshal(t, marshal(t, *s))
			assert.Equal(t, s, again)
		})
	}
}

func TestUnmarshal_KeepsTheBytesOfArgs(t *testing.T) {
	// a tag, keys not in order, numbers not the shortest
	want := raw(t, "d9d9f7a2617a01616182190001fa3f800000")
	s := unmarshal(t, withField(t, "args", want))
	assert.Equal(t, want, s.Args)
	assert.Contains(t, string(marshal(t, *s)), string(want))
}

func TestUnmarshal_KeepsNothingOfItsInput(t *testing.T) {
	sent := full(t)
	data := marshal(t, sent)
	got := unmarshal(t, data)
	clear(data)
	assert.Equal(t, marshal(t, sent), marshal(t, *got))
}

func TestUnmarshal_NamesAnotherVersionFirst(t *testing.T) {
	for _, v := range []uint64{0, 2, math.MaxUint64} {
		for _, spoil := range []func(m map[string]any){
			func(map[string]any) {},
			func(m map[string]any) { delete(m, "name") },
			func(m map[string]any) { m["depth"] = "deep" },
			func(m map[string]any) { m["a"] = nil },
		} {
			m := wireMap()
			m["v"] = v
			spoil(m)
			_, err := spawnspec.Unmarshal(encode(t, m))
			assert.Equal(t, "v", fieldOf(t, err))
			assert.Contains(t, err.Error(),
				"version "+strconv.FormatUint(v, 10)+", this program reads version 1")
		}
	}
}

func TestUnmarshal_RefusesWhatIsNotOneMap(t *testing.T) {
	good := encode(t, wireMap())
	many := map[string]int{}
	for i := range 65 {
		many["x"+strconv.Itoa(i)] = i
	}
	for _, c := range []struct {
		name string
		data []byte
		text string
	}{
		{"nothing", nil, "unexpected EOF"},
		{"text", encode(t, "x"), "is text; want a map"},
		{"an array", encode(t, []int{1}), "is an array; want a map"},
		{"null", encode(t, nil), "is null; want a map"},
		{"a map under a tag", append(raw(t, "d9d9f7"), good...), "is a tag; want a map"},
		{"a map of indefinite length",
			append(append([]byte{0xbf}, good[1:]...), 0xff), "indefinite length"},
		{"a reserved start", []byte{0xbc}, "reserved initial byte 0xbc"},
		{"half a head", []byte{0xb9, 1}, "unexpected EOF"},
		{"a byte too many", append(bytes.Clone(good), 0), "1 bytes too many"},
		{"too many fields", encode(t, many), "65 elements; at most 64"},
		{"a count that lies",
			[]byte{0xbb, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, "at most 64"},
		{"a key that is a number", encode(t, map[int]int{1: 1}),
			"a key is an unsigned integer; want text"},
		{"a key that is null", raw(t, "a1f601"), "a key is null; want text"},
		{"a key that is not UTF-8", raw(t, "a161ff01"), "UTF-8"},
		{"a key of indefinite length", raw(t, "a17f6176ff01"), "indefinite"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := spawnspec.Unmarshal(c.data)
			require.Error(t, err)
			assert.Contains(t, err.Error(), "spawnspec: malformed: ")
			assert.Contains(t, err.Error(), c.text)
		})
	}
}

func TestUnmarshal_RefusesADuplicateKey(t *testing.T) {
	for _, key := range []string{"v", "name", "new"} {
		twice := append([]byte{0xa2}, bytes.Repeat(append(encode(t, key), raw(t, "01")...), 2)...)
		if key == "name" {
			twice = append([]byte{0xa2}, bytes.Repeat(append(encode(t, key), "\x61x"...), 2)...)
		}
		_, err := spawnspec.Unmarshal(twice)
		assert.Equal(t, key, fieldOf(t, err))
		assert.Contains(t, err.Error(), "is there twice")
	}
}

func TestUnmarshal_RefusesASpecThatIsCut(t *testing.T) {
	sent := full(t)
	data := marshal(t, sent)
	for n := range data {
		_, err := spawnspec.Unmarshal(data[:n])
		require.ErrorIs(t, err, io.ErrUnexpectedEOF, "cut to %d of %d bytes", n, len(data))
	}
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

func TestUnmarshal_TakesTheVectors(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("the paths are those of Unix")
	}
	payloads := vectorSpecs(t)
	assert.NotEmpty(t, payloads)
	for _, payload := range payloads {
		s, err := spawnspec.Unmarshal(payload)
		require.NoError(t, err)
		assert.NotEmpty(t, s.Name)
	}
}

func FuzzUnmarshal(f *testing.F) {
	sent := full(f)
	f.Add(marshal(f, sent))
	f.Add(marshal(f, least()))
	f.Add(withField(f, "new", []any{1, "x"}))
	f.Add(withField(f, "log", "WARN+1"))
	for _, args := range []string{"d9d9f7a2617a01616182190001fa3f800000", "f7", "c11a514b67b0",
		"a1c074323031332d30332d32315432303a30343a30305a01"} {
		f.Add(withField(f, "args", raw(f, args)))
	}
	for _, payload := range vectorSpecs(f) {
		f.Add(payload)
	}
	f.Fuzz(readAgain)
}

// FuzzArgs changes only the args, so that it reaches deeper into them.
func FuzzArgs(f *testing.F) {
	for _, seed := range []string{"00", "a1f97e0001",
		"a2c11a514b67b001c074323031332d30332d32315432303a30343a30305a02",
		"c249010000000000000000", "d864a14101f6"} {
		f.Add([]byte(raw(f, seed)))
	}
	f.Fuzz(func(t *testing.T, item []byte) {
		readAgain(t, withField(t, "args", cbor.RawMessage(item)))
	})
}

// roughlyAllocated returns the number of bytes allocated since the start. The
// figure may lag by less than a megabyte.
func roughlyAllocated() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

// readAgain decodes data. Unmarshal must return an error of this package, or a
// Spec that survives a round trip.
func readAgain(t *testing.T, data []byte) {
	before := roughlyAllocated()
	s, err := spawnspec.Unmarshal(data)
	require.Less(t, roughlyAllocated()-before, uint64(300*len(data)+1<<20),
		"too much memory for these bytes")
	if err != nil {
		assert.Nil(t, s)
		assert.True(t, strings.HasPrefix(err.Error(), "spawnspec: "), err.Error())
		return
	}
	require.NoError(t, s.Validate())
	first := marshal(t, *s)
	again := unmarshal(t, first)
	assert.Equal(t, first, marshal(t, *again))
	assert.Equal(t, s, again)
	var v any
	_ = s.DecodeArgs(&v) // any error, no panic
}
