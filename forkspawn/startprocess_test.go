//go:build unix

package forkspawn_test

import (
	"io"
	"os"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
)

func TestStartProcess_WorksByItself(t *testing.T) {
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer r.Close()
	p, err := forkspawn.StartProcess(forkspawn.ProcessAttr{
		Command: forkspawn.Command{Path: "sh",
			Args: []string{"-c", "echo $0 $*; exit 4", "a", "b"}},
		Stdout: w,
	})
	w.Close()
	require.NoError(t, err)
	out, err := io.ReadAll(r)
	require.NoError(t, err)
	assert.Equal(t, "a b\n", string(out))
	assert.Equal(t, forkspawn.ExitedStatus(4), p.Wait())
	assert.Equal(t, forkspawn.ExitedStatus(4), p.Wait())
	assert.ErrorIs(t, p.Signal(syscall.SIGTERM), os.ErrProcessDone)
}
