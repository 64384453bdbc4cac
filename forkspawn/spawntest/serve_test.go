package spawntest_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/call"
	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
	"github.com/spawnwire/spawnwire/internal/testkit"
)

var (
	shoutOut = call.NewUnary[string, string]("shout")
	suffix   = call.NewUnary[struct{}, string]("suffix") // of the caller
)

func TestServe_CallsHandlersAndCallsBack(t *testing.T) {
	mux, callbacks := call.NewMux(), call.NewMux()
	shoutOut.Handle(mux, func(ctx context.Context, s string) (string, error) {
		if s == "" {
			return "", errors.New("nothing to shout")
		}
		end, err := suffix.Call(ctx, call.ConnOf(ctx), struct{}{})
		return strings.ToUpper(s) + end, err
	})
	suffix.Handle(callbacks, func(context.Context, struct{}) (string, error) { return "!", nil })
	t.Run("inner", func(t *testing.T) {
		spawntest.NoLeaks(t)
		conn := spawntest.Serve(t, mux, callbacks)
		got, err := shoutOut.Call(testkit.Context(t), conn, "hello")
		require.NoError(t, err)
		assert.Equal(t, "HELLO!", got)
		_, err = shoutOut.Call(testkit.Context(t), conn, "")
		assert.EqualError(t, err, "call: shout: nothing to shout")
	})
}
