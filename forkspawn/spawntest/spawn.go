package spawntest

import (
	"sync"
	"testing"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// Spawn runs a function as a child that is ready when Spawn returns. The test's end stops it, and if the test
// has failed by then, the last lines that the child wrote to stderr are in the test's log. A child that does not
// become ready fails the test.
//
// Each with may change the settings and the orders, such as Listen and Args, before the child is started:
//
//	child := spawntest.Spawn(t, sum, func(cfg *forkspawn.Config, spec *spawnspec.Spec) {
//		cfg.Listen = transport.Addr{Scheme: "tcp", Target: "127.0.0.1:0"}
//		spec.Args = []int{1, 2, 3}
//	})
//
// What a zero Config means for stdout and stderr is as with [NewSpawner].
func Spawn(t testing.TB, entry *Entry, with ...func(*forkspawn.Config, *spawnspec.Spec)) *forkspawn.Child {
	t.Helper()
	needMain(t)
	cfg, spec := forkspawn.Config{}, spawnspec.Spec{Entry: entry.name}
	for _, change := range with {
		change(&cfg, &spec)
	}
	child, err := NewSpawner(t, cfg).Spawn(t.Context(), spec)
	if err != nil {
		t.Fatalf("spawntest: %v", err)
	}
	return child
}

// NewSpawner returns a Spawner that the test's end closes; when that fails, the test does. Where cfg leaves
// them open, the children's stdout and stderr are captured, and the last 16 KiB that all children together
// wrote to stderr are logged if the test has failed.
func NewSpawner(t testing.TB, cfg forkspawn.Config) *forkspawn.Spawner {
	t.Helper()
	if cfg.Stdout == (forkspawn.Stream{}) {
		cfg.Stdout = forkspawn.Capture(nil)
	}
	said := new(lastBytes)
	if cfg.Stderr == (forkspawn.Stream{}) {
		cfg.Stderr = forkspawn.Capture(said)
	}
	s, err := forkspawn.New(cfg)
	if err != nil {
		t.Fatalf("spawntest: %v", err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("spawntest: %v", err)
		}
		if text := said.String(); t.Failed() && text != "" {
			t.Logf("stderr of the children, at its end:\n%s", text)
		}
	})
	return s
}

// keep is how much of the children's stderr can get into a test's log, in bytes.
const keep = 16 << 10

// lastBytes keeps the end of what is written to it, by any number of children.
type lastBytes struct {
	mu  sync.Mutex
	buf []byte
}

func (l *lastBytes) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buf = append(l.buf, p[max(0, len(p)-keep):]...)
	if over := len(l.buf) - keep; over > 0 {
		l.buf = append(l.buf[:0], l.buf[over:]...)
	}
	return len(p), nil
}

func (l *lastBytes) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.buf)
}
