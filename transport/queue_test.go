package transport

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestACrowdThatTookLongIsNotWaitedForAgainForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // its clock can be moved
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
		require.True(t, waitsFor(tooLong+time.Millisecond), "what took no longer than that does no harm")
		require.False(t, waitsFor(tooLong))
		time.Sleep(2 * apartFactor * tooLong)
		require.True(t, waitsFor(0))
		require.True(t, waitsFor(0))
	})
}
