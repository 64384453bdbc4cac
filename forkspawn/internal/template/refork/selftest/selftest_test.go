//go:build linux

package selftest

import (
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn/internal/template/refork"
)

// A slow machine is no reason to refuse forks for good.
func TestFailure_SlownessIsNoRefusal(t *testing.T) {
	assert.ErrorIs(t, &failure{"child 3 of 20: hang: child 7 has not finished"}, ErrStalled)
	late := &refork.Refused{Reason: "2 of 6 threads did not stop in time", Err: refork.ErrSlow}
	assert.ErrorIs(t, &failure{"child 3 of 20: refused: " + late.Error()}, refork.ErrSlow)
	assert.ErrorIs(t, &failure{"child 3 of 20: crash: too many open files"}, syscall.EMFILE)
	assert.NotErrorIs(t, &failure{"child 3 of 20: wrong: memory has changed"}, ErrStalled)
}

func TestAwait_ProgressIsNotTheResult(t *testing.T) {
	for _, want := range []string{"ok", "child 3 of 20: crash", ""} {
		r, w, err := os.Pipe()
		require.NoError(t, err)
		go func() {
			for range 5 {
				w.Write([]byte{progress})
				time.Sleep(time.Millisecond)
			}
			w.WriteString(want)
			w.Close()
		}()
		text, err := await(r)
		require.NoError(t, err)
		assert.Equal(t, want, text)
		r.Close()
	}
}
