package forkspawn

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/spawnspec"
)

func TestWarmUpDecodesWhatARealSpecIsMadeOf(t *testing.T) {
	spec, err := spawnspec.Unmarshal([]byte(exampleSpec))
	require.NoError(t, err, "a spec that is refused at its first field warms nothing up")
	assert.Equal(t, "x", spec.Entry)
	again, err := spawnspec.Marshal(spec)
	require.NoError(t, err)
	assert.Equal(t, exampleSpec, string(again))
}
