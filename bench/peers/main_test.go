package main

import (
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/bench/peers/peer"
	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
)

func TestMain(m *testing.M) {
	peer.Init()
	spawntest.Main(m)
}

// The shortest run of all sections must have results of each competitor. shmipc is
// left out: its dispatcher outlives its sessions. To this test it would be a leak.
func TestRun_AllSections(t *testing.T) {
	spawntest.NoLeaks(t)
	s := settings{rounds: 1, turn: time.Millisecond, spawns: 1, messages: 100, large: 256 << 10,
		only:  strings.Join(sections, ","),
		peers: "C,raw,spawnwire,net/rpc,grpc,ttrpc,drpc,connect,go-plugin,mangos"}
	r, err := s.results(t.Context())
	require.NoError(t, err)
	assert.Empty(t, r.Failed())
	rows := map[string]bool{}
	for _, table := range r.Tables {
		for _, row := range table.Rows {
			rows[row.Peer] = true
			assert.Positive(t, row.Op.P50, "%s, %s", row.Peer, table.Job)
			assert.Positive(t, row.Ratio.P50, "%s, %s", row.Peer, table.Job)
		}
	}
	_, noCompiler := exec.LookPath("cc")
	for _, p := range peer.All() {
		want := p.Name() != "shmipc" && (!strings.HasPrefix(p.Name(), "C") || noCompiler == nil)
		assert.Equal(t, want, rows[p.Name()], p.Name())
	}
	assert.Equal(t, noCompiler != nil, len(r.Notes) == 1, "a note names the missing floor: %v",
		r.Notes)
	var b strings.Builder
	require.NoError(t, r.Markdown(&b))
	for _, heading := range []string{"Round trips, TCP", "streams, Unix", "64 goroutines",
		"64 callers", "beside messages", "is not read", "acknowledgement", "Targets of calls",
		"Spawn to ready", "over n channels", "of n messages", "Targets"} {
		assert.Contains(t, b.String(), heading)
	}
	require.NoError(t, r.Plots(t.TempDir()))
}
