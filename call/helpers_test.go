package call_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/call"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/transport"
)

// pair returns two Conns over a Unix socket. The test's cleanup closes them.
func pair(t testing.TB, a, b *call.Mux) (*call.Conn, *call.Conn) {
	return pairWith(t, call.Config{}, a, b)
}

func pairWith(t testing.TB, cfg call.Config, a, b *call.Mux) (*call.Conn, *call.Conn) {
	t.Helper()
	x, y := testkit.Unix(t)
	return open(t, cfg, transport.New(x, transport.Config{}), a),
		open(t, cfg, transport.New(y, transport.Config{}), b)
}

func open(t testing.TB, cfg call.Config, ch *transport.Channel, mux *call.Mux) *call.Conn {
	c := cfg.New(call.Over(ch), mux)
	t.Cleanup(func() {
		assert.NoError(t, c.Close())
		ch.Abort()
	})
	return c
}

// asError returns the Error in err.
func asError(t testing.TB, err error) *call.Error {
	t.Helper()
	var e *call.Error
	require.ErrorAs(t, err, &e)
	return e
}

type word struct{ Text string }

var echo = call.NewUnary[word, word]("echo")

func echoes() *call.Mux {
	mux := call.NewMux()
	echo.Handle(mux, func(_ context.Context, w word) (word, error) { return w, nil })
	return mux
}
