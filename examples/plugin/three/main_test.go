package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/examples/peers"
)

func TestThree_PluginsAreKilledAndRestarted(t *testing.T) {
	dir := t.TempDir()
	out, err := exec.Command("go", "build", "-o", dir, ".", "../shout").CombinedOutput()
	require.NoError(t, err, "%s", out)
	plugins := map[string]string{"shout": filepath.Join(dir, "shout")}
	if python, err := peers.Python(t.Context(), ""); found(t, err) {
		plugins["shout.py"] = python + " ../shout.py"
	}
	if node, err := peers.Node(t.Context(), "../../peers/node", ""); found(t, err) {
		plugins["shout.mjs"] = node + " ../shout.mjs"
	}
	var args []string
	for _, command := range plugins {
		args = append(args, command)
	}
	out, err = exec.Command(filepath.Join(dir, "three"), args...).CombinedOutput()
	require.NoError(t, err, "%s", out)
	for name := range plugins {
		assert.Contains(t, string(out), "the host of "+name+" SHOUTS: HELLO\n")
		assert.Contains(t, string(out), name+" has ended its call in time: true\n")
		assert.Contains(t, string(out), name+" was killed: true\n")
		assert.Contains(t, string(out), name+" is done after 2 starts\n")
	}
}

// found reports whether a language is there.
func found(t *testing.T, err error) bool {
	t.Helper()
	if err != nil && os.Getenv("SPAWNWIRE_PEERS") == "required" {
		t.Error(err)
	} else if err != nil {
		t.Log(err)
	}
	return err == nil
}
