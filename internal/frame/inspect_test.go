package frame_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/internal/frame"
	"github.com/spawnwire/spawnwire/internal/testkit"
)

var update = flag.Bool("update", false, "write testdata/inspect.json")

type vectors struct {
	Comment string   `json:"comment"`
	Frames  []vector `json:"frames"`
	Refused []vector `json:"refused"`
}

// vector is a frame with its fields. A frame without fields cannot be read.
type vector struct {
	What   string         `json:"what"`
	Kind   string         `json:"kind"`
	Fields map[string]any `json:"fields,omitempty"`
	Frame  string         `json:"frame"`
}

type fields = map[string]any

func makeVectors() (v vectors) {
	v.Comment = "Test vectors of docs/PROTOCOL-inspect.md; see README.md."
	encoded := func(f frame.Frame) string {
		b := make([]byte, frame.HeaderSize, frame.HeaderSize+len(f.Body))
		frame.PutHeader(b, f.Kind, len(f.Body))
		return hex.EncodeToString(append(b, f.Body...))
	}
	add := func(what string, f frame.Frame, have fields) {
		v.Frames = append(v.Frames, vector{what, f.Kind.String(), have, encoded(f)})
	}
	refuse := func(what string, kind frame.Kind, body string) {
		f := frame.Frame{Kind: kind, Body: []byte(body)}
		v.Refused = append(v.Refused, vector{what, kind.String(), nil, encoded(f)})
	}
	add("a question for the tree", frame.Inspect{ID: 7, What: "tree", Bound: time.Second}.Frame(),
		fields{"id": 7, "what": "tree", "bound": 1_000_000_000})
	add("a question for a profile of a process below", frame.Inspect{
		ID: 8, What: "profile", Bound: time.Second, Path: []string{"a1", "b2"}, Name: "heap",
	}.Frame(), fields{"id": 8, "what": "profile", "bound": 1_000_000_000,
		"path": []string{"a1", "b2"}, "name": "heap"})
	add("a question for a profile that takes time", frame.Inspect{
		ID: 9, What: "profile", Bound: time.Second, Name: "profile", Time: 30 * time.Second,
	}.Frame(), fields{"id": 9, "what": "profile", "bound": 1_000_000_000, "name": "profile",
		"time": 30_000_000_000})
	add("the next part, please", frame.Inspect{ID: 8}.Frame(), fields{"id": 8})
	add("a first part", frame.Inspected{ID: 8, Part: []byte{1, 2, 3}, Left: 2}.Frame(),
		fields{"id": 8, "part": "010203", "left": 2})
	add("the last part", frame.Inspected{ID: 8, Part: []byte{4, 5}}.Frame(),
		fields{"id": 8, "part": "0405"})
	add("no answer", frame.Inspected{ID: 9, Error: "no"}.Frame(), fields{"id": 9, "error": "no"})
	for _, kind := range []frame.Kind{frame.KindInspect, frame.KindInspected} {
		refuse("nothing", kind, "")
		refuse("no id", kind, "\xa0")
		refuse("an id below zero", kind, "\xa1\x62id\x20")
		refuse("more after it", kind, "\xa1\x62id\x01\x00")
	}
	refuse("a bound below zero", frame.KindInspect, "\xa2\x62id\x01\x65bound\x20")
	refuse("a path that is text", frame.KindInspect, "\xa2\x62id\x01\x64path\x61a")
	refuse("a part that is text", frame.KindInspected, "\xa2\x62id\x01\x64part\x61a")
	return v
}

func TestInspect_Vectors(t *testing.T) {
	path := filepath.Join(testkit.Root(t), "testdata", "inspect.json")
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetIndent("", "  ")
	require.NoError(t, e.Encode(makeVectors()))
	if *update {
		require.NoError(t, os.WriteFile(path, b.Bytes(), 0o644))
	}
	assert.Equal(t, testkit.ReadFile(t, path), b.String(), "run this test with -update")
}

func TestInspect_IsParsed(t *testing.T) {
	for _, v := range makeVectors().Frames {
		f, err := hex.DecodeString(v.Frame)
		require.NoError(t, err)
		body := f[frame.HeaderSize:]
		if v.Kind == "inspect" {
			q, err := frame.ParseInspect(body)
			require.NoError(t, err, v.What)
			assert.Equal(t, body, q.Frame().Body, v.What)
		} else {
			a, err := frame.ParseInspected(body)
			require.NoError(t, err, v.What)
			assert.Equal(t, body, a.Frame().Body, v.What)
		}
	}
}

func TestInspect_RefusesWhatCannotBeRead(t *testing.T) {
	for _, v := range makeVectors().Refused {
		f, err := hex.DecodeString(v.Frame)
		require.NoError(t, err)
		_, err = frame.ParseInspect(f[frame.HeaderSize:])
		if v.Kind == "inspected" {
			_, err = frame.ParseInspected(f[frame.HeaderSize:])
		}
		assert.Error(t, err, v.What)
	}
}

func TestInspected_CutsItsError(t *testing.T) {
	a, err := frame.ParseInspected(frame.Inspected{Error: strings.Repeat("x", 1<<20)}.Frame().Body)
	require.NoError(t, err)
	assert.Len(t, a.Error, 4<<10)
}
