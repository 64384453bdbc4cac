//go:build unix

package capture

import (
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/internal/testkit"
)

// The kernel closes the pipes of a dead parent one after the other, some of them after the
// socket.
func TestReplaceBroken_ReaderGoesLate(t *testing.T) {
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer w.Close()
	bound, stdout, stderr := closing, os.Stdout, os.Stderr
	closing, os.Stdout, os.Stderr = testkit.Patience, w, w
	closed := testkit.Background(t, func() error {
		time.Sleep(20 * time.Millisecond)
		return r.Close()
	})
	ReplaceBroken()
	closing, os.Stdout, os.Stderr = bound, stdout, stderr
	require.NoError(t, closed())
	_, err = w.WriteString("nobody reads this")
	assert.NoError(t, err, "it is the null device now")
}
