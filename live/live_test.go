//go:build unix

package live_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"syscall"
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

func TestTree_HasAllDescendants(t *testing.T) {
	spawntest.NoLeaks(t)
	s := newSpawner(t, forkspawn.Config{})
	grow(t, s, roles.Tree{Levels: 3, Breadth: 2})
	h := serve(t, s, live.Config{})
	tree := h.tree()
	require.Len(t, tree.Processes, 1+2+4+8)
	for i, p := range tree.Processes[1:] {
		assert.Equal(t, strings.Count(p.Name, "."), p.Depth, p.Name)
		assert.Equal(t, "tree-node", p.Entry)
		assert.Equal(t, "ready", p.State)
		assert.Empty(t, p.Silent, p.Name)
		assert.Positive(t, p.PID)
		assert.Positive(t, p.Uptime)
		assert.Positive(t, p.Boot.Total)
		assert.Positive(t, p.Goroutines, "it has answered itself")
		above := tree.Processes[i].Name // each follows its parent, or a sibling
		assert.True(t, strings.HasPrefix(p.Name, above) || len(above) >= len(p.Name), p.Name)
	}
	page := h.get("")
	for name := range named(tree) {
		assert.Contains(t, page, ">"+name+"<td>")
	}
}

func TestTree_OfEachStartMethod(t *testing.T) {
	for _, method := range []forkspawn.Method{
		forkspawn.MethodExec, forkspawn.MethodForkserver, forkspawn.MethodInProcess,
	} {
		t.Run(string(method), func(t *testing.T) {
			if method == forkspawn.MethodForkserver {
				if err := forkspawn.CheckForkserver(testkit.Context(t)); err != nil {
					t.Skip(err)
				}
			}
			s := newSpawner(t, forkspawn.Config{Method: method})
			spawn(t, s, spawnspec.Spec{Name: "child", Entry: "waits"})
			tree := named(serve(t, s, live.Config{}).tree())
			child := tree["child"]
			assert.Equal(t, "ready", child.State)
			assert.Empty(t, child.Silent)
			assert.Equal(t, string(method), child.Method)
			if method != forkspawn.MethodInProcess { // whose goroutines are those of the root
				assert.Positive(t, child.Goroutines)
			}
			if method == forkspawn.MethodForkserver {
				assert.Equal(t, "template", tree["template"].State)
			}
		})
	}
}

func TestTree_ShowsStoppedProcessesAsSilent(t *testing.T) {
	testkit.NeedLinux(t)
	s := newSpawner(t, forkspawn.Config{})
	grow(t, s, roles.Tree{Levels: 2, Breadth: 2})
	h := serve(t, s, live.Config{})
	pids := named(h.tree())
	stop := func(name string) {
		pid := pids[name].PID
		require.NoError(t, syscall.Kill(pid, syscall.SIGSTOP))
		t.Cleanup(func() { syscall.Kill(pid, syscall.SIGCONT) })
	}
	stop("n.0")
	stop("n.1.1")
	testkit.Eventually(t, "the tree without the stopped ones", func() bool {
		tree := named(h.tree())
		_, below := tree["n.0.0"]
		return tree["n.0"].State == "stopped" && tree["n.1.1"].State == "stopped" && !below &&
			tree["n.1.0"].State == "ready"
	})
	assert.Contains(t, h.get(""), "is stopped (SIGSTOP)")
	text := h.get("stacks")
	assert.Contains(t, text, `"n.0" (pid `)
	assert.Contains(t, text, `"n.1.1" (pid `)
	assert.Contains(t, text, "3 processes: ", "the root, n.1 and n.1.0")
}

func TestTree_HasEndsRestartsSparesAndCalls(t *testing.T) {
	s := newSpawner(t, forkspawn.Config{Spares: 2, Stderr: forkspawn.Capture(nil)})
	require.NoError(t, s.AwaitSpares(testkit.Context(t)))
	ctx := testkit.Context(t)
	g, err := s.NewGroup(ctx, forkspawn.GroupConfig{
		Restart: forkspawn.RestartOnFailure, MinPause: 1, MaxPause: 1, MaxRestarts: -1,
	})
	require.NoError(t, err)
	lives := 0
	require.NoError(t, g.Go(spawnspec.Spec{Name: "restarted", Entry: "echo"},
		func(ctx context.Context, c *forkspawn.Child) error {
			if lives++; lives <= 2 {
				return errors.New("<not yet>")
			}
			<-ctx.Done()
			return nil
		}))
	dead := spawn(t, s, spawnspec.Spec{Name: "dead", Entry: "panics"})
	dead.Wait(ctx)
	caller := spawn(t, s, spawnspec.Spec{Name: "called", Entry: "never-returns"})
	conn := call.New(caller, nil)
	defer conn.Close()
	const traceID = "4bf92f3577b34da6a3ce929d0e0e4736"
	calling, cancel := context.WithCancel(call.WithMetadata(ctx,
		call.Metadata{"traceparent": "00-" + traceID + "-00f067aa0ba902b7-01"}))
	done := testkit.Background(t, func() error {
		_, err := never.Call(calling, conn, 1)
		return err
	})
	h := serve(t, s, live.Config{})
	var tree map[string]inspect.Process
	testkit.Eventually(t, "a tree with everything", func() bool {
		tree = named(h.tree())
		return tree["restarted"].Restarts == 2 && len(tree["called"].Calls) == 1 &&
			tree["called"].Calls[0].Age > 0
	})
	assert.Equal(t, "<not yet>", tree["restarted"].Restarted)
	assert.Equal(t, "never", tree["called"].Calls[0].Method)
	assert.Equal(t, traceID, tree["called"].Calls[0].TraceID)
	assert.Positive(t, tree["called"].Calls[0].Credit)
	assert.Equal(t, "ended", tree["dead"].State)
	assert.Equal(t, "exit status 2", tree["dead"].Exit)
	assert.Contains(t, tree["dead"].Stderr, "panic")
	assert.Equal(t, 2, h.tree().Processes[0].SparesWanted)
	testkit.Eventually(t, "the spares", func() bool { return h.tree().Processes[0].Spares == 2 })
	assert.Equal(t, "spare", named(h.tree())["spare"].State)
	page := h.get("")
	assert.Contains(t, page, "&lt;not yet&gt;", "texts of children are no HTML")
	assert.Contains(t, page, "of 2 spares wait")
	assert.Contains(t, page, ", trace "+traceID)
	cancel()
	assert.Error(t, done())
	g.Cancel(nil)
	g.Wait()
}

func TestTree_HasProgramsAndOtherLanguages(t *testing.T) {
	s := newSpawner(t, forkspawn.Config{})
	c, err := s.Start(testkit.Context(t), forkspawn.Command{Path: "sleep", Args: []string{"600"}})
	require.NoError(t, err)
	tree := named(serve(t, s, live.Config{}).tree())
	assert.Equal(t, "does not speak the protocol", tree["sleep"].Silent)
	assert.Equal(t, c.PID(), tree["sleep"].PID)
}

func TestPage_HasNoRoomForScripts(t *testing.T) {
	h := serve(t, newSpawner(t, forkspawn.Config{}), live.Config{})
	answer, err := http.Get(h.server.URL + path)
	require.NoError(t, err)
	defer answer.Body.Close()
	assert.Contains(t, answer.Header.Get("Content-Security-Policy"), "default-src 'none'")
	body, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	for _, want := range []string{`<html lang="en">`, "<title>", "<caption", `scope="col"`,
		`scope="row"`, `src="live.js"`} {
		assert.Contains(t, string(body), want)
	}
	assert.Equal(t, 1, strings.Count(string(body), "<script"))
	assert.NotContains(t, string(body), "<form")
	assert.Contains(t, h.get("live.js"), "EventSource")
	assert.Contains(t, h.get("live.css"), "prefers-color-scheme")
	status, _ := h.do(http.MethodGet, "other")
	assert.Equal(t, http.StatusNotFound, status)
}

func TestHandler_RefusesOtherSites(t *testing.T) {
	h := serve(t, newSpawner(t, forkspawn.Config{}), live.Config{Hosts: []string{"ops.example"}})
	host := strings.TrimPrefix(h.server.URL, "http://")
	for _, c := range []struct {
		want    int
		method  string
		headers []string
	}{
		{200, "GET", nil},
		{200, "HEAD", nil},
		{200, "GET", []string{"Host", "localhost:1234"}},
		{200, "GET", []string{"Host", "[::1]:1234"}},
		{200, "GET", []string{"Host", "192.0.2.1"}},
		{200, "GET", []string{"Host", "OPS.example:80"}},
		{200, "GET", []string{"Sec-Fetch-Site", "same-origin"}},
		{200, "GET", []string{"Sec-Fetch-Site", "none"}},
		{200, "GET", []string{"Origin", "http://" + host}},
		{403, "GET", []string{"Host", "rebound.example"}},
		{403, "GET", []string{"Host", "localhost.rebound.example"}},
		{403, "GET", []string{"Host", "127.0.0.1.rebound.example:80"}},
		{403, "GET", []string{"Sec-Fetch-Site", "cross-site"}},
		{403, "GET", []string{"Sec-Fetch-Site", "same-site"}},
		{403, "GET", []string{"Origin", "http://other.example"}},
		{403, "GET", []string{"Origin", "null"}},
		{405, "POST", nil},
		{405, "PUT", nil},
		{405, "DELETE", nil},
	} {
		for _, at := range []string{"", "stacks"} {
			status, body := h.do(c.method, at, c.headers...)
			assert.Equal(t, c.want, status, "%s %v: %s", c.method, c.headers, body)
		}
	}
}

func TestEvents_HaveTheChanges(t *testing.T) {
	s := newSpawner(t, forkspawn.Config{})
	first := spawn(t, s, spawnspec.Spec{Name: "first", Entry: "echo"})
	h := serve(t, s, live.Config{})
	ctx, cancel := context.WithCancel(testkit.Context(t))
	defer cancel()
	events := h.events(ctx)
	var change struct {
		All  string
		Rows map[string]string
	}
	require.NoError(t, json.Unmarshal([]byte(next(t, events, "first")), &change))
	assert.Contains(t, change.All, "first")
	spawn(t, s, spawnspec.Spec{Name: "second", Entry: "echo"})
	require.NoError(t, json.Unmarshal([]byte(next(t, events, "second")), &change))
	assert.Contains(t, change.All, "second")
	first.Kill() // it stays as an end
	next(t, events, "signal: killed")
}
