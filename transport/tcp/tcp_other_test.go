//go:build !linux && !darwin

package tcp

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/spawnwire/spawnwire/internal/testkit"
)

func serves(context.Context) error { return errors.ErrUnsupported }

func TestReusePort_IsUnsupported(t *testing.T) {
	_, err := Transport{ReusePort: true}.Listen(testkit.Context(t), tcpAddr("127.0.0.1:0"))
	assert.ErrorIs(t, err, errors.ErrUnsupported)
}
