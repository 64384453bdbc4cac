package main

import (
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/internal/testkit"
)

func TestMCP_AnswersAndCrashes(t *testing.T) {
	testkit.NeedSpawn(t)
	bin := filepath.Join(t.TempDir(), "mcp")
	out, err := exec.Command("go", "build", "-o", bin, ".").CombinedOutput()
	require.NoError(t, err, "%s", out)
	out, err = exec.Command(bin).Output()
	require.NoError(t, err)
	assert.Equal(t, `initialize: {"protocolVersion":"2025-06-18","serverInfo":{"name":"moon"}}
the server has ended: exit status 1 cannot open the moon

`, string(out))
}
