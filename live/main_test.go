//go:build unix

package live_test

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/call"
	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
	"github.com/spawnwire/spawnwire/internal/inspect"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/internal/testkit/roles"
	"github.com/spawnwire/spawnwire/live"
	"github.com/spawnwire/spawnwire/spawnspec"
)

func TestMain(m *testing.M) {
	roles.Register()
	forkspawn.Register("never-returns", neverReturns)
	testkit.PlayRole(roles.Programs)
	spawntest.Main(m)
}

var never = call.NewUnary[int, int]("never")

// neverReturns serves a call that ends with its context only.
func neverReturns(ctx context.Context, p *forkspawn.Parent) error {
	mux := call.NewMux()
	never.Handle(mux, func(ctx context.Context, _ int) (int, error) {
		<-ctx.Done()
		return 0, ctx.Err()
	})
	return call.Serve(ctx, p, mux)
}

const path = "/debug/spawnwire/"

// served is a handler under test.
type served struct {
	t      testing.TB
	server *httptest.Server
}

func serve(t testing.TB, s *forkspawn.Spawner, cfg live.Config) served {
	mux := http.NewServeMux()
	mux.Handle(path, cfg.Handler(s))
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return served{t, server}
}

// do returns the status and the body of an answer. Headers are pairs.
func (s served) do(method, at string, headers ...string) (int, string) {
	s.t.Helper()
	r, err := http.NewRequestWithContext(testkit.Context(s.t), method, s.server.URL+path+at, nil)
	require.NoError(s.t, err)
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == "Host" {
			r.Host = headers[i+1]
		}
		r.Header.Set(headers[i], headers[i+1])
	}
	answer, err := http.DefaultTransport.RoundTrip(r)
	require.NoError(s.t, err)
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	require.NoError(s.t, err)
	return answer.StatusCode, string(body)
}

func (s served) get(at string) string {
	s.t.Helper()
	status, body := s.do(http.MethodGet, at)
	require.Equal(s.t, http.StatusOK, status, body)
	return body
}

func (s served) tree() (tree inspect.Snapshot) {
	s.t.Helper()
	require.NoError(s.t, json.Unmarshal([]byte(s.get("?format=json")), &tree))
	return tree
}

// named returns the processes of a tree by name.
func named(tree inspect.Snapshot) map[string]inspect.Process {
	all := make(map[string]inspect.Process)
	for _, p := range tree.Processes {
		all[p.Name] = p
	}
	return all
}

func newSpawner(t testing.TB, cfg forkspawn.Config) *forkspawn.Spawner {
	t.Helper()
	s, err := forkspawn.New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { s.Close() })
	return s
}

func spawn(t testing.TB, s *forkspawn.Spawner, spec spawnspec.Spec) *forkspawn.Child {
	t.Helper()
	c, err := s.Spawn(testkit.Context(t), spec)
	require.NoError(t, err)
	return c
}

// grow starts a tree of processes below a Spawner and returns when all are up. The
// names are "n.0", "n.0.1" and so on.
func grow(t testing.TB, s *forkspawn.Spawner, tree roles.Tree) {
	t.Helper()
	tree.Obey = true
	up := make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	wait := testkit.Background(t, func() error {
		return tree.Grow(ctx, s, "n", func([]int) error { close(up); return nil })
	})
	t.Cleanup(func() { cancel(); wait() })
	testkit.Receive(t, up)
}

// events opens the events of a page.
func (s served) events(ctx context.Context) *bufio.Scanner {
	s.t.Helper()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.server.URL+path+"events", nil)
	require.NoError(s.t, err)
	answer, err := http.DefaultClient.Do(r)
	require.NoError(s.t, err)
	s.t.Cleanup(func() { answer.Body.Close() })
	assert.Equal(s.t, "text/event-stream", answer.Header.Get("Content-Type"))
	lines := bufio.NewScanner(answer.Body)
	lines.Buffer(nil, 1<<20)
	return lines
}

// next returns the next event with a text in it.
func next(t testing.TB, lines *bufio.Scanner, text string) string {
	t.Helper()
	for lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if ok && strings.Contains(data, text) {
			return data
		}
	}
	require.FailNow(t, "the events have ended", "before %q: %v", text, lines.Err())
	return ""
}
