//go:build unix

package peers_test

import (
	"context"
	"crypto/sha256"
	"math"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/blob"
	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/internal/access"
	"github.com/spawnwire/spawnwire/internal/frame"
	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
)

// newSpawner returns a Spawner for children in language l.
func newSpawner(t testing.TB, l language, cfg forkspawn.Config) *forkspawn.Spawner {
	t.Helper()
	files := cfg.Command.Files
	cfg.Command = l.command(t, l.child)
	cfg.Command.Files = files
	return spawntest.NewSpawner(t, cfg)
}

// all has a field of each type that a message can hold.
type all struct {
	Small, Negative   int
	Beyond, Most      uint64
	Least             int64
	Half, Tiny, Whole float64
	Infinite          float64
	Yes, No           bool
	Null              any
	Text, Empty       string
	Bytes, None       []byte
	List              []any
	Map               map[string]any
	Time              time.Time
	Deep              any
	LongText          string
	Proto             map[string]int
}

func TestChild_EchoesEveryType(t *testing.T) {
	spawntest.NoLeaks(t)
	var deep any = "down"
	for range 30 {
		deep = map[string]any{"deeper": []any{deep}}
	}
	sent := all{
		Small: 23, Negative: -4_000_000_000, Beyond: 1<<53 + 1, Most: math.MaxUint64,
		Least: math.MinInt64,
		Half:  1.5, Tiny: math.SmallestNonzeroFloat64, Whole: 3, Infinite: math.Inf(-1), Yes: true,
		Text: "grüße 日本 \x00 🐙", Bytes: []byte{0, 0xff, 0x80}, None: []byte{},
		List: []any{uint64(1), int64(-1), "two", nil, []any{}, false, 0.25},
		Map:  map[string]any{"": uint64(0), "ä": []byte("b")},
		Time: time.Date(2026, 11, 23, 3, 14, 15, 926e6, time.UTC), Deep: deep,
		LongText: strings.Repeat("long ", 100_000),
	}
	inEach(t, func(t *testing.T, l language) {
		l.childOverEach(t, func(t *testing.T, addr transport.Addr) {
			child, err := newSpawner(t, l, forkspawn.Config{Listen: addr}).Spawn(t.Context(),
				spawnspec.Spec{Entry: "echo"})
			require.NoError(t, err)
			ctx := t.Context()

			var got all
			require.NoError(t, child.Send(ctx, sent))
			require.NoError(t, child.Recv(ctx, &got))
			assert.WithinDuration(t, sent.Time, got.Time, time.Microsecond)
			got.Time = sent.Time
			assert.Equal(t, sent, got)

			for _, value := range []any{nil, true, uint64(0), "", []any{}, uint64(math.MaxUint64),
				int64(math.MinInt64), -0.5, []byte("bytes")} {
				var got any = "nothing"
				require.NoError(t, child.Send(ctx, value))
				require.NoError(t, child.Recv(ctx, &got))
				assert.Equal(t, value, got)
			}

			// Nothing, in each form, comes back as the same bytes.
			for _, body := range []string{"\xf6", "\xf7", "\x40", "\x60", "\x80", "\xa0", "\xf4",
				"\x00", "\x84\x40\x60\xf6\x80", "\xa2\x61a\xf6\x61b\x40", "\xa1\x60\x60"} {
				sent := frame.Frame{Kind: frame.KindMessage, Body: []byte(body)}
				require.NoError(t, child.Channel().Frames(access.Key{}).Write(ctx, sent))
				got, err := child.Channel().Frames(access.Key{}).Read(ctx)
				require.NoError(t, err)
				assert.Equal(t, sent, got)
			}

			buf := make([]byte, 4<<20)
			for _, size := range []int{0, 1, 65535, 65536, 3 << 20} {
				raw := []byte(strings.Repeat("r", size))
				received := make(chan error, 1)
				var n int
				go func() {
					var err error
					n, err = child.RecvBytes(ctx, buf)
					received <- err
				}()
				require.NoError(t, child.SendBytes(ctx, raw))
				require.NoError(t, <-received)
				assert.Equal(t, raw, buf[:n])
			}

			// The child skips frames of unknown kinds and answers a ping.
			require.NoError(t, child.Channel().Frames(access.Key{}).Write(ctx,
				frame.Frame{Kind: 0x80}, frame.Frame{Kind: 0xff, Body: make([]byte, 1<<20)},
				frame.Frame{Kind: frame.KindPong, Body: []byte("stray")},
				frame.Frame{Kind: frame.KindPing, Body: []byte("ping")}))
			pong, err := child.Channel().Frames(access.Key{}).Read(ctx)
			require.NoError(t, err)
			assert.Equal(t, frame.Frame{Kind: frame.KindPong, Body: []byte("ping")}, pong)

			result, err := child.Stop(ctx)
			require.NoError(t, err)
			assert.Equal(t, forkspawn.Asked, result.By)
			assert.True(t, result.Status.Success(), result)
			t.Logf("ready in %v, stopped in %v", child.Boot().Total, result.Elapsed)
		})
	})
}

func TestChild_GetsArguments(t *testing.T) {
	spawntest.NoLeaks(t)
	inEach(t, func(t *testing.T, l language) {
		child, err := newSpawner(t, l, forkspawn.Config{}).Spawn(t.Context(), spawnspec.Spec{
			Name: "words", Entry: "count",
			Args:     map[string]any{"pattern": `\w+`, "when": time.Now()},
			Deadline: time.Now().Add(time.Hour),
		})
		require.NoError(t, err)
		var n int
		require.NoError(t, child.Send(t.Context(), "three small words"))
		require.NoError(t, child.Recv(t.Context(), &n))
		assert.Equal(t, 3, n)
		boot := child.Boot()
		assert.Positive(t, boot.Connect, "the child sends its timings")
	})
}

// A file has the ticket, as in a pod.
func TestChild_TakesItsTicketFromAFile(t *testing.T) {
	spawntest.NoLeaks(t)
	inEach(t, func(t *testing.T, l language) {
		const wrapper = `echo "$SPAWNWIRE_TICKET" >"$0"; SPAWNWIRE_TICKET="file:$0" exec "$@"`
		child := l.command(t, l.child)
		s := spawntest.NewSpawner(t, forkspawn.Config{Command: forkspawn.Command{Path: "sh",
			Args: append([]string{"-c", wrapper, t.TempDir() + "/ticket", child.Path},
				child.Args...)}})
		c, err := s.Spawn(t.Context(), spawnspec.Spec{Entry: "count",
			Args: map[string]any{"pattern": `\w+`}})
		require.NoError(t, err)
		_, err = c.Stop(t.Context())
		require.NoError(t, err)
	})
}

func TestChild_AsSpare(t *testing.T) {
	spawntest.NoLeaks(t)
	inEach(t, func(t *testing.T, l language) {
		var mu sync.Mutex
		var stderr strings.Builder
		s := newSpawner(t, l,
			forkspawn.Config{Spares: 2,
				Stderr: forkspawn.Capture(writerFunc(func(p []byte) (int, error) {
					mu.Lock()
					defer mu.Unlock()
					return stderr.Write(p)
				}))})
		require.NoError(t, s.AwaitSpares(t.Context()))
		child, err := s.Spawn(t.Context(),
			spawnspec.Spec{Entry: "count", Args: map[string]any{"pattern": `\w+`}})
		require.NoError(t, err)
		assert.True(t, child.Boot().Spare)
		var pattern string
		require.NoError(t, child.ReadyValue(&pattern))
		assert.Equal(t, `\w+`, pattern, "the value that goes with the ready")
		var n int
		require.NoError(t, child.Send(t.Context(), "three small words"))
		require.NoError(t, child.Recv(t.Context(), &n))
		assert.Equal(t, 3, n)
		require.NoError(t, s.AwaitSpares(t.Context()))
		require.NoError(t, s.Close())
		mu.Lock()
		defer mu.Unlock()
		assert.Empty(t, stderr.String(), "a spare that is not used exits without an error")
	})
}

// A Blob is constant memory that the child maps, or reads through its descriptor.
func TestChild_TakesABlob(t *testing.T) {
	spawntest.NoLeaks(t)
	table, err := blob.Build("table", 3<<20+5, func(b []byte) error {
		for i := range b {
			b[i] = byte(i ^ i>>8)
		}
		return nil
	})
	require.NoError(t, err)
	defer table.Close()
	want := sha256.Sum256(table.Bytes())
	inEach(t, func(t *testing.T, l language) {
		s := newSpawner(t, l, forkspawn.Config{Command: forkspawn.Command{
			Files: map[string]*os.File{"table": table.File()}}})
		child, err := s.Spawn(t.Context(), spawnspec.Spec{Entry: "table"})
		require.NoError(t, err)
		var sum []byte
		require.NoError(t, child.Recv(t.Context(), &sum))
		assert.Equal(t, want[:], sum)
	})
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestChild_ReportsFailedStart(t *testing.T) {
	spawntest.NoLeaks(t)
	inEach(t, func(t *testing.T, l language) {
		l.childOverEach(t, func(t *testing.T, addr transport.Addr) {
			s := newSpawner(t, l, forkspawn.Config{Listen: addr})
			_, err := s.Spawn(t.Context(), spawnspec.Spec{Entry: "fly"})
			var boot *forkspawn.BootError
			require.ErrorAs(t, err, &boot)
			require.ErrorIs(t, err, handshake.ErrUnknownEntry)
			var failed *handshake.FailedError
			require.ErrorAs(t, err, &failed)
			assert.Contains(t, failed.Text, "fly")
			assert.Contains(t, failed.Text, "echo", "the entries that exist")
			assert.Equal(t, forkspawn.ExitedStatus(1), boot.Status)
			assert.Contains(t, boot.Stderr, "fly")

			// An error of the entry before it is ready.
			_, err = s.Spawn(t.Context(),
				spawnspec.Spec{Entry: "count", Args: map[string]string{"pattern": "("}})
			require.ErrorAs(t, err, &boot)
			require.ErrorAs(t, err, &failed)
			assert.Equal(t, handshake.PhaseReady, failed.Phase)
			assert.Regexp(t, `(?i)unterminated`, failed.Text,
				"the text of the regular expression library")
			assert.Equal(t, forkspawn.ExitedStatus(1), boot.Status)
		})
	})
}

func TestChild_ReportsItsError(t *testing.T) {
	spawntest.NoLeaks(t)
	inEach(t, func(t *testing.T, l language) {
		l.childOverEach(t, func(t *testing.T, addr transport.Addr) {
			child, err := newSpawner(t, l, forkspawn.Config{Listen: addr}).Spawn(t.Context(),
				spawnspec.Spec{Entry: "count", Args: map[string]string{"pattern": "."}})
			require.NoError(t, err)
			require.NoError(t, child.Send(t.Context(), 42))
			var n int
			err = child.Recv(t.Context(), &n)
			var exit *forkspawn.ExitError
			require.ErrorAs(t, err, &exit)
			assert.Equal(t, forkspawn.ExitedStatus(1), exit.Status)
			assert.Equal(t, "count takes text", exit.Said)
			assert.Contains(t, exit.Stderr, "TypeError")
		})
	})
}

func TestChild_StopsWhileBusy(t *testing.T) {
	spawntest.NoLeaks(t)
	inEach(t, func(t *testing.T, l language) {
		l.childOverEach(t, func(t *testing.T, addr transport.Addr) {
			child, err := newSpawner(t, l,
				forkspawn.Config{Listen: addr, StopGrace: bound}).Spawn(t.Context(),
				spawnspec.Spec{Entry: "busy"})
			require.NoError(t, err)
			var word string
			require.NoError(t, child.Recv(t.Context(), &word))
			result, err := child.Stop(t.Context())
			require.NoError(t, err)
			assert.Equal(t, forkspawn.Asked, result.By)
			assert.True(t, result.Status.Success(), result)
			t.Log(result, result.Elapsed)
		})
	})
}

// orphan spawns a child and sends its pid. Then the test kills orphan.
var orphan = spawntest.Func(func(ctx context.Context, parent *forkspawn.Parent) error {
	var args struct {
		Path  string
		Args  []string
		Entry string
		TCP   bool
	}
	if err := parent.Spec().DecodeArgs(&args); err != nil {
		return err
	}
	cfg := forkspawn.Config{Command: forkspawn.Command{Path: args.Path, Args: args.Args},
		NoParentDeathSignal: true}
	if args.TCP {
		cfg.Listen = transport.Addr{Scheme: transport.SchemeTCP, Target: "127.0.0.1:0"}
	}
	s, err := forkspawn.New(cfg)
	if err != nil {
		return err
	}
	defer s.Close()
	child, err := s.Spawn(ctx, spawnspec.Spec{Entry: args.Entry})
	if err != nil {
		return err
	}
	if err := parent.Send(ctx, child.PID()); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
})

func TestOrphan_ChildEndsWithParent(t *testing.T) {
	spawntest.NoLeaks(t)
	inEach(t, func(t *testing.T, l language) {
		for _, entry := range []string{"echo", "busy"} {
			for _, tcp := range []bool{false, true} {
				command := l.command(t, l.child)
				parent := spawntest.Spawn(t, orphan,
					func(_ *forkspawn.Config, spec *spawnspec.Spec) {
						spec.Args = map[string]any{"Path": command.Path, "Args": command.Args,
							"Entry": entry, "TCP": tcp}
					})
				var pid int
				require.NoError(t, parent.Recv(t.Context(), &pid))
				require.NotContains(t, []string{"", "Z"}, spawntest.State(pid), "it runs")
				_, err := parent.Kill()
				require.NoError(t, err)
				spawntest.AwaitGone(t, pid)
			}
		}
	})
}
