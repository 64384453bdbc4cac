//go:build unix

package peers_test

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
)

// TestVectors_CatchEachFault breaks each rule in the Python reader and requires that a
// vector fails. This prints the rules and the vectors:
//
//	python3 examples/peers/python/test_mutations.py -v
func TestVectors_CatchEachFault(t *testing.T) {
	spawntest.NoLeaks(t)
	python.need(t)
	p := python.start(t, nil, []string{"-B", "python/test_mutations.py"})
	assert.Equal(t, 0, p.end(t), "%s%s", p.stdout, p.stderr)
	t.Log(p.stdout)
}

// TestVectors_InEachLanguage runs the vector tests of each language.
func TestVectors_InEachLanguage(t *testing.T) {
	spawntest.NoLeaks(t)
	dir, err := filepath.Abs("../../testdata")
	require.NoError(t, err)
	require.FileExists(t, filepath.Join(dir, "refused.json"))
	inEach(t, func(t *testing.T, l language) {
		for _, tests := range [][]string{l.tests, l.callTests} {
			p := l.start(t, []string{"SPAWNWIRE_TESTDATA=" + dir}, tests)
			assert.Equal(t, 0, p.end(t), "%s%s", p.stdout, p.stderr)
		}
	})
}
