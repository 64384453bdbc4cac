package main

import (
	"io/fs"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
)

func TestMain(m *testing.M) {
	forkspawn.Register("kv", plugin)
	spawntest.Main(m)
}

func TestKV_AddsWithTheHost(t *testing.T) {
	t.Chdir(t.TempDir())
	require.ErrorIs(t, run(t.Context(), []string{"get", "answer"}), fs.ErrNotExist)
	for range 2 {
		require.NoError(t, run(t.Context(), []string{"put", "answer", "21"}))
	}
	require.NoError(t, run(t.Context(), []string{"get", "answer"}))
	assert.FileExists(t, "kv_answer")
	assert.Error(t, run(t.Context(), []string{"put", "answer", "many"}))
}
