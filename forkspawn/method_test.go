package forkspawn

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Each refusal names a working method. The second column is a platform with or
// without processes and forks.
func TestMethod_RefusalsAreThreeErrors(t *testing.T) {
	kinds := []error{ErrMethodUnknown, ErrMethodReserved, ErrMethodUnavailable}
	for _, c := range []struct {
		method Method
		can    bool
		is     error
		remedy string
	}{
		{"teleport", true, ErrMethodUnknown, `"exec"`},
		{"EXEC", true, ErrMethodUnknown, `"exec"`},
		{"forkserver", true, nil, ""},
		{"forkserver", false, ErrMethodUnavailable, `"exec"`},
		{"livefork", true, ErrMethodReserved, "golang/go#77032"},
		{"exec", false, ErrMethodUnavailable, `"inprocess"`},
		{"exec", true, nil, ""},
		{"inprocess", true, nil, ""},
		{"inprocess", false, nil, ""},
	} {
		err := checkMethod(c.method, c.can, c.can)
		if c.is == nil {
			assert.NoError(t, err, string(c.method))
			continue
		}
		for _, kind := range kinds {
			assert.Equal(t, kind == c.is, errors.Is(err, kind), "%q is %v", c.method, kind)
		}
		assert.ErrorContains(t, err, string(c.method))
		assert.ErrorContains(t, err, c.remedy)
		var bad *ConfigError
		require.ErrorAs(t, err, &bad)
		assert.Equal(t, "Method", bad.Field)
	}
	assert.ErrorIs(t, checkMethod("exec", false, false), errors.ErrUnsupported)
}
