package forkspawn

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The three refusals, each with what works instead; of the second platform only what it refuses.
func TestUnknownReservedAndUnavailableMethodsAreThreeErrors(t *testing.T) {
	kinds := []error{ErrMethodUnknown, ErrMethodReserved, ErrMethodUnavailable}
	for _, c := range []struct {
		method string
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
			assert.NoError(t, err, c.method)
			continue
		}
		for _, kind := range kinds {
			assert.Equal(t, kind == c.is, errors.Is(err, kind), "%q is %v", c.method, kind)
		}
		assert.ErrorContains(t, err, c.method)
		assert.ErrorContains(t, err, c.remedy)
		var m *MethodError
		require.ErrorAs(t, err, &m)
		assert.Equal(t, c.method, m.Method)
	}
	assert.ErrorIs(t, checkMethod("exec", false, false), errors.ErrUnsupported)
}
