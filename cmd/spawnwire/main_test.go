package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/internal/inspect"
)

func serve(t *testing.T) *httptest.Server {
	at, looks := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), 0
	mux := http.NewServeMux()
	mux.HandleFunc("/x/{$}", func(w http.ResponseWriter, r *http.Request) {
		assert.Equal(t, "json", r.FormValue("format"))
		looks++
		json.NewEncoder(w).Encode(inspect.Snapshot{
			At: at.Add(time.Duration(looks) * time.Second),
			Processes: []inspect.Process{
				{Name: "root", PID: 7, State: "running"},
				{ID: "1", Name: "wor\x1bker", Depth: 1, State: "ready", Entry: "hash",
					CPU: time.Duration(looks) * time.Second / 4, Calls: make([]inspect.Call, 3)},
				{ID: "2", Name: "dead", Depth: 1, State: "ended", Exit: "exit status 2"},
			},
		})
	})
	mux.HandleFunc("/x/stacks", func(w http.ResponseWriter, r *http.Request) {
		w.Write([]byte("all stacks\n"))
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server
}

func TestTop_PrintsTheTree(t *testing.T) {
	var out, errs bytes.Buffer
	require.Equal(t, 0, run(context.Background(), []string{"top", "-n", "2", serve(t).URL + "/x"},
		&out, &errs), errs.String())
	text := out.String()
	assert.Contains(t, text, "03:04:07  3 processes")
	assert.Regexp(t, `(?m)^  wor\?ker +ready +hash +0s +250ms`, text)
	assert.Regexp(t, `(?m)^  wor\?ker +ready +hash +0s +500ms +25 +3`, text)
	assert.Regexp(t, `(?m)^  dead +ended .*exit status 2$`, text)
	assert.NotContains(t, text, "\x1b", "the output is no terminal")
}

func TestStacks_PrintsThem(t *testing.T) {
	var out, errs bytes.Buffer
	args := []string{"stacks", serve(t).URL + "/x/"}
	assert.Equal(t, 0, run(context.Background(), args, &out, &errs))
	assert.Equal(t, "all stacks\n", out.String())
}

func TestCommand_ReportsErrors(t *testing.T) {
	server := serve(t)
	for _, c := range []struct {
		want int
		args []string
	}{
		{2, nil}, {2, []string{"top"}}, {2, []string{"fly", ":1"}}, {2, []string{"top", "nothing"}},
		{2, []string{"top", "-x", ":1"}}, {1, []string{"stacks", server.URL + "/y/"}},
	} {
		var out, errs bytes.Buffer
		assert.Equal(t, c.want, run(context.Background(), c.args, &out, &errs), c.args)
		assert.NotEmpty(t, errs.String())
	}
}

func TestAddress_OfAPort(t *testing.T) {
	u, err := address(":6060")
	require.NoError(t, err)
	assert.Equal(t, "http://127.0.0.1:6060/debug/spawnwire/", u.String())
}
