package archtest

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestLimits_FilesAndFunctionsAreShort(t *testing.T) {
	for _, p := range packages(t) {
		if !p.Production() {
			continue
		}
		size, err := p.Measure()
		require.NoError(t, err)
		for _, sentence := range size.Long {
			t.Error(sentence)
		}
	}
}
