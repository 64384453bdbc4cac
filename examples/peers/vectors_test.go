//go:build unix

package peers_test

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
)

// TestVectorsInEachLanguage runs each language's own test of the protocol's vectors.
func TestVectorsInEachLanguage(t *testing.T) {
	spawntest.NoLeaks(t)
	dir, err := filepath.Abs("../../testdata")
	require.NoError(t, err)
	require.FileExists(t, filepath.Join(dir, "refused.json"))
	inEach(t, func(t *testing.T, l language) {
		p := l.start(t, []string{"SPAWNWIRE_TESTDATA=" + dir}, l.tests)
		assert.Equal(t, 0, p.end(t), "%s%s", p.stdout, p.stderr)
	})
}
