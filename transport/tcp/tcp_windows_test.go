package tcp

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestNoReusePort(t *testing.T) {
	_, err := Transport{ReusePort: true}.Listen(testContext(t), tcpAddr("127.0.0.1:0"))
	assert.ErrorIs(t, err, ErrNoReusePort)
	assert.ErrorIs(t, err, errors.ErrUnsupported)
}
