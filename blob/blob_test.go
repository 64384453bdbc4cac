//go:build unix

package blob_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/blob"
	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/spawnspec"
)

func TestMain(m *testing.M) { spawntest.Main(m) }

// digests is a child with a Blob from Command.Files, or from a connection. It sends the
// digest of the Blob.
var digests = spawntest.Func(func(ctx context.Context, parent *forkspawn.Parent) error {
	b, err := receive(ctx, parent)
	if err != nil {
		return err
	}
	defer b.Close()
	for {
		sum := sha256.Sum256(b.Bytes())
		if err := parent.SendBytes(ctx, sum[:]); err != nil {
			return err
		}
		if _, err := parent.RecvBytes(ctx, nil); err != nil {
			return err
		}
	}
})

func receive(ctx context.Context, parent *forkspawn.Parent) (*blob.Blob, error) {
	file, err := parent.File("table")
	if err == nil {
		return blob.Open(file)
	}
	conn, err := parent.Accept(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return blob.Receive(ctx, conn)
}

// build makes a Blob of bytes that are all different from their neighbours.
func build(t testing.TB, size int) *blob.Blob {
	t.Helper()
	b, err := blob.Build("table", size, func(b []byte) error {
		for i := range b {
			b[i] = byte(i ^ i>>8)
		}
		return nil
	})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, b.Close()) })
	require.Len(t, b.Bytes(), size)
	return b
}

func command(b *blob.Blob) forkspawn.Command {
	return forkspawn.Command{Files: map[string]*os.File{"table": b.File()}}
}

func newSpawner(t testing.TB, cfg forkspawn.Config) *forkspawn.Spawner {
	t.Helper()
	return spawntest.NewSpawner(t, cfg)
}

func spawn(t testing.TB, s *forkspawn.Spawner) *forkspawn.Child {
	t.Helper()
	child, err := s.Spawn(testkit.Context(t), spawnspec.Spec{Entry: digests})
	require.NoError(t, err)
	return child
}

func digest(t testing.TB, child *forkspawn.Child) []byte {
	t.Helper()
	sum := make([]byte, sha256.Size)
	_, err := child.RecvBytes(testkit.Context(t), sum)
	require.NoError(t, err)
	return sum
}

// pssOf returns the memory of the mappings of a file in a process, in bytes.
func pssOf(t testing.TB, pid int, file string) (total int) {
	t.Helper()
	smaps, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps", pid))
	require.NoError(t, err)
	inside := false
	for line := range strings.Lines(string(smaps)) {
		var n int
		if f := strings.Fields(line); strings.Contains(f[0], "-") {
			inside = strings.Contains(line, file)
		} else if _, err := fmt.Sscanf(line, "Pss: %d kB", &n); err == nil && inside {
			total += n << 10
		}
	}
	return total
}

func TestBlob_ReachesChildren(t *testing.T) {
	spawntest.NoLeaks(t)
	b := build(t, 100_001)
	want := sha256.Sum256(b.Bytes())
	for name, cfg := range map[string]forkspawn.Config{
		"exec":       {Method: forkspawn.MethodExec},
		"spare":      {Method: forkspawn.MethodExec, Spares: 1},
		"in process": {Method: forkspawn.MethodInProcess},
		"forkserver": {Method: forkspawn.MethodForkserver},
	} {
		t.Run(name, func(t *testing.T) {
			if cfg.Method == forkspawn.MethodForkserver {
				if err := forkspawn.CheckForkserver(testkit.Context(t)); err != nil {
					t.Skip(err)
				}
			}
			if cfg.Method != forkspawn.MethodInProcess {
				cfg.Command = command(b)
				s := newSpawner(t, cfg)
				assert.Equal(t, want[:], digest(t, spawn(t, s)))
				assert.Equal(t, want[:], digest(t, spawn(t, s)), "as often as one likes")
			}
			cfg.Command = forkspawn.Command{Connections: true}
			child := spawn(t, newSpawner(t, cfg))
			conn, err := child.Open(testkit.Context(t))
			require.NoError(t, err)
			defer conn.Close()
			require.NoError(t, blob.Send(testkit.Context(t), conn, b))
			assert.Equal(t, want[:], digest(t, child), "over a connection")
		})
	}
}

// The bytes stay when the builder has closed the Blob.
func TestBlob_OutlivesItsBuilder(t *testing.T) {
	spawntest.NoLeaks(t)
	b, err := blob.From("table", strings.NewReader("hello"))
	require.NoError(t, err)
	child := spawn(t, newSpawner(t, forkspawn.Config{Command: command(b)}))
	require.NoError(t, b.Close())
	require.NoError(t, b.Close(), "a second Close does nothing")
	want := sha256.Sum256([]byte("hello"))
	assert.Equal(t, want[:], digest(t, child))
	require.NoError(t, child.SendBytes(testkit.Context(t), nil))
	assert.Equal(t, want[:], digest(t, child))
}

func TestBlob_OfEachSize(t *testing.T) {
	spawntest.NoLeaks(t)
	for _, size := range []int{0, 1, os.Getpagesize(), os.Getpagesize() + 1, 1 << 20, 3<<20 + 7} {
		data := bytes.Repeat([]byte("abcdefg"), size/7+1)[:size]
		one := build(t, size)
		two, err := blob.From("two", bytes.NewReader(data))
		require.NoError(t, err)
		assert.True(t, bytes.Equal(data, two.Bytes()), "%d bytes", size)
		for _, b := range []*blob.Blob{one, two} {
			again, err := blob.Open(b.File())
			require.NoError(t, err)
			assert.True(t, bytes.Equal(b.Bytes(), again.Bytes()), "%d bytes", size)
			require.NoError(t, again.Close())
		}
		require.NoError(t, two.Close())
	}
}

func TestBuild_ErrorsLeaveNothing(t *testing.T) {
	spawntest.NoLeaks(t)
	broken := errors.New("the table is broken")
	_, err := blob.Build("table", 10, func([]byte) error { return broken })
	require.ErrorIs(t, err, broken)
	assert.EqualError(t, err, `blob: build "table": the table is broken`)
	_, err = blob.From("table", io.MultiReader(strings.NewReader("x"), errorReader{broken}))
	require.ErrorIs(t, err, broken)
	_, err = blob.Build("table", -1, func([]byte) error { return nil })
	require.ErrorContains(t, err, "a size of -1 bytes")
	assert.Panics(t, func() {
		blob.Build("table", 10, func([]byte) error { panic(broken) })
	})
}

type errorReader struct{ err error }

func (r errorReader) Read([]byte) (int, error) { return 0, r.err }

func TestOpen_RefusesOtherFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(path, []byte("hello"), 0o600))
	file, err := os.Open(path)
	require.NoError(t, err)
	defer file.Close()
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer r.Close()
	defer w.Close()
	for _, f := range []*os.File{file, r, w} {
		_, err := blob.Open(f)
		assert.ErrorIs(t, err, blob.ErrNotSealed)
		assert.ErrorContains(t, err, f.Name())
	}
	require.NoError(t, file.Close())
	_, err = blob.Open(file)
	assert.ErrorContains(t, err, "closed file")
}

func TestReceive_EndsWithTheConnection(t *testing.T) {
	b := build(t, 1)
	one, two := net.Pipe()
	require.ErrorIs(t, blob.Send(t.Context(), one, b), errors.ErrUnsupported)
	one.Close()
	two.Close()
	s := newSpawner(t, forkspawn.Config{Command: forkspawn.Command{Connections: true}})
	conn, err := spawn(t, s).Open(testkit.Context(t))
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = blob.Receive(ctx, conn)
	require.ErrorIs(t, err, context.Canceled)
	require.NoError(t, conn.Close())
}
