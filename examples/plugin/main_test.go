package main

import (
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestPlugin_AnswersAndCrashes(t *testing.T) {
	dir := t.TempDir()
	out, err := exec.Command("go", "build", "-o", dir, ".", "./shout").CombinedOutput()
	require.NoError(t, err, "%s", out)
	out, err = exec.Command(filepath.Join(dir, "plugin"), filepath.Join(dir, "shout")).
		CombinedOutput()
	require.NoError(t, err, "%s", out)
	assert.Equal(t, "the host SHOUTS: HELLO\npanic: panic: nothing to shout\n"+
		"the plugin has ended: exit status 2\n", string(out))

	out, err = exec.Command(filepath.Join(dir, "shout")).CombinedOutput()
	assert.Error(t, err)
	assert.Contains(t, string(out), "not a spawned process: SPAWNWIRE_TICKET is not set")
}
