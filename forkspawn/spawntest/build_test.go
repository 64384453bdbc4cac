//go:build unix

package spawntest_test

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
	"github.com/spawnwire/spawnwire/internal/testkit"
)

const host = `package main

import (
	"fmt"

	"github.com/spawnwire/spawnwire/forkspawn"
)

func main() {
	s, err := forkspawn.New(forkspawn.Config{})
	fmt.Println(s, err)
	select {}
}
`

// killHost kills a process with a Spawner.
func killHost(t testing.TB) {
	file := filepath.Join(t.TempDir(), "main.go")
	require.NoError(t, os.WriteFile(file, []byte(host), 0o600))
	cmd := exec.Command(spawntest.Build(t, file))
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	_, err = bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	require.NoError(t, cmd.Process.Kill())
	cmd.Wait()
}

func TestNoLeaksAfterKill_ExpectsTheDirectory(t *testing.T) {
	testkit.NeedSpawn(t)
	spawntest.NoLeaksAfterKill(t) // removes what the next test finds
	defer spawntest.SetPatience(10 * time.Millisecond)()
	r := record(func(r testing.TB) {
		spawntest.NoLeaks(r)
		killHost(t)
	})
	assert.True(t, r.failed)
	assert.Contains(t, r.log(), "directory "+os.TempDir()+"/spawnwire-")

	r = record(func(r testing.TB) {
		spawntest.NoLeaksAfterKill(r)
		killHost(t)
	})
	assert.False(t, r.failed, r.log())
	assert.NotContains(t, r.log(), "left behind")

	r = record(func(r testing.TB) {
		spawntest.NoLeaksAfterKill(r)
		_, undo := makeLeak(t, "goroutine")
		t.Cleanup(undo)
	})
	assert.True(t, r.failed, "other leaks are still found")
}

func TestBuild_NamesTheFault(t *testing.T) {
	file := filepath.Join(t.TempDir(), "main.go")
	require.NoError(t, os.WriteFile(file, []byte("package main\n\nfunc main() { x }\n"), 0o600))
	r := record(func(r testing.TB) { spawntest.Build(r, file) })
	assert.True(t, r.failed)
	assert.Contains(t, r.log(), "undefined: x")
	one := spawntest.Build(t, "../../examples/mcp")
	assert.Equal(t, one, spawntest.Build(t, "../../examples/mcp"), "it is built once")
}
