package live

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestPause_KeepsTheLoadLow(t *testing.T) {
	assert.Equal(t, time.Second, pause(3, time.Millisecond))
	assert.Equal(t, 5*time.Second, pause(100, time.Millisecond), "each process is asked")
	assert.Equal(t, 2*time.Second, pause(3, 100*time.Millisecond), "the event has taken long")
	assert.Equal(t, heartbeat, pause(10_000, time.Second))
}
