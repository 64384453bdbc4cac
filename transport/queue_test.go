package transport

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestSenders_LongGatheringIsNotRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // for its clock
		var q sendQueue
		waitsFor := func(d time.Duration) bool {
			q.gather(q.rousing.Add(2))
			defer func() {
				q.roused()
				time.Sleep(d)
				q.roused()
				require.False(t, q.gathering)
			}()
			return q.gathering
		}
		require.True(t, waitsFor(0))
		require.True(t, waitsFor(tooLong))
		require.True(t, waitsFor(tooLong+time.Millisecond), "it was not too long")
		require.False(t, waitsFor(tooLong))
		time.Sleep(2 * apartFactor * tooLong)
		require.True(t, waitsFor(0))
		require.True(t, waitsFor(0))
	})
}
