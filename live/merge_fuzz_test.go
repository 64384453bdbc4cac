package live

import (
	"bytes"
	"compress/gzip"
	"io"
	"runtime/pprof"
	"testing"

	"github.com/spawnwire/spawnwire/internal/inspect"
)

// A profile of another process can be anything.
func FuzzMergeProfiles(f *testing.F) {
	var own bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&own, 0); err != nil {
		f.Fatal(err)
	}
	r, err := gzip.NewReader(bytes.NewReader(own.Bytes()))
	if err != nil {
		f.Fatal(err)
	}
	plain, err := io.ReadAll(r)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(plain)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		z.Write(data)
		z.Close()
		out, err := mergeProfiles([]inspect.Profiled{{Data: own.Bytes()},
			{Process: inspect.Process{Name: "child"}, Data: b.Bytes()}, {Data: data}})
		if err != nil {
			t.Fatal(err) // the first profile is good
		}
		if len(out) == 0 {
			t.Fatal("no profile")
		}
	})
}
