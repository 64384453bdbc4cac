package call_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/call"
)

// A receiver gives credit back in steps. So a message of more than half the window
// may not fit the credit although all messages were taken.
func TestStream_MessagesOfMostOfTheWindow(t *testing.T) {
	// Windows of 16 KiB and of 128 KiB.
	for _, cfg := range []call.Config{{MaxCalls: 1024}, {}} {
		conn, _ := pairWith(t, cfg, nil, streams())
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		s, err := loud.Open(ctx, conn)
		require.NoError(t, err)
		for _, size := range []int{5_000, 12_000, 16_340, 3_000, 14_000, 50_000, 100_000, 131_000} {
			require.NoError(t, s.Send(word{strings.Repeat("a", size)}), size)
			got, err := s.Recv()
			require.NoError(t, err, size)
			assert.Equal(t, strings.Repeat("A", size), got.Text)
		}
		require.NoError(t, s.Close())
	}
}
