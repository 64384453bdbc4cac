package call_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/spawnwire/spawnwire/call"
	"github.com/spawnwire/spawnwire/internal/testkit"
)

var errQuota = errors.New("the quota is used up")

func init() { call.RegisterError("call_test.errQuota", errQuota) }

// failing has a method. It returns err.
func failing(err error) *call.Mux {
	mux := call.NewMux()
	echo.Handle(mux, func(context.Context, word) (word, error) { return word{}, err })
	return mux
}

func TestError_KeepsItsIdentity(t *testing.T) {
	_, notThere := os.Open("/there/is/no/such/file")
	for _, c := range []struct {
		name string
		err  error
		is   []error
		code call.Code
	}{
		{"registered", fmt.Errorf("user 7: %w", errQuota), []error{errQuota}, call.CodeFailed},
		{"two", errors.Join(errQuota, io.EOF), []error{errQuota, io.EOF}, call.CodeFailed},
		{"file", notThere, []error{fs.ErrNotExist, syscall.ENOENT}, call.CodeFailed},
		{"errno", syscall.ENOSPC, []error{syscall.ENOSPC}, call.CodeFailed},
		{"canceled", context.Canceled, []error{context.Canceled}, call.CodeCanceled},
		{"deadline", context.DeadlineExceeded, []error{context.DeadlineExceeded},
			call.CodeDeadline},
		{"own code", &call.Error{Code: "no-such-user", Text: "user 7"}, nil, "no-such-user"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, _ := pair(t, nil, failing(c.err))
			_, err := echo.Call(testkit.Context(t), a, word{})
			e := asError(t, err)
			assert.Equal(t, c.code, e.Code)
			assert.Equal(t, []string{"echo"}, e.Path)
			for _, is := range c.is {
				assert.ErrorIs(t, err, is)
			}
			assert.NotErrorIs(t, err, fs.ErrPermission)
			if c.name == "own code" {
				assert.EqualError(t, err, "call: echo: user 7")
			} else {
				assert.EqualError(t, err, "call: echo: "+c.err.Error())
			}
		})
	}
}

// Each relay is a process between two others.
func TestError_RelayedHasItsPath(t *testing.T) {
	far, _ := pair(t, nil, failing(fmt.Errorf("disk 3: %w", errQuota)))
	relay := call.NewUnary[word, word]("relay")
	mux := call.NewMux()
	relay.Handle(mux, func(ctx context.Context, w word) (word, error) {
		return echo.Call(ctx, far, w)
	})
	near, _ := pair(t, nil, mux)

	_, err := relay.Call(testkit.Context(t), near, word{})
	assert.ErrorIs(t, err, errQuota)
	assert.Equal(t, []string{"relay", "echo"}, asError(t, err).Path)
	assert.EqualError(t, err, "call: relay: call: echo: disk 3: the quota is used up")
}

func TestError_UnknownMethodAndWrongType(t *testing.T) {
	ctx := testkit.Context(t)
	a, _ := pair(t, nil, nil)
	_, err := echo.Call(ctx, a, word{})
	assert.Equal(t, call.CodeUnimplemented, asError(t, err).Code)
	assert.EqualError(t, err, `call: echo: no method "echo"`)

	a, _ = pair(t, nil, echoes())
	number := call.NewUnary[int, int]("echo")
	_, err = number.Call(ctx, a, 7)
	assert.Equal(t, call.CodeInvalid, asError(t, err).Code)
	_, err = call.NewUnary[word, int]("echo").Call(ctx, a, word{"x"})
	assert.Equal(t, call.CodeInvalid, asError(t, err).Code)
	_, err = call.NewUnary[func(), int]("echo").Call(ctx, a, func() {})
	assert.Equal(t, call.CodeInvalid, asError(t, err).Code)
	_, err = echo.Call(ctx, a, word{"the connection works on"})
	assert.NoError(t, err)
}

func TestError_TooLargeMessagesAreNotSent(t *testing.T) {
	a, _ := pairWith(t, call.Config{MaxMessage: 100_000}, nil, echoes())
	ctx := testkit.Context(t)
	_, err := echo.Call(ctx, a, word{string(make([]byte, 100_001))})
	assert.Equal(t, call.CodeTooLarge, asError(t, err).Code)
	long := call.NewMux()
	echo.Handle(long, func(context.Context, word) (word, error) {
		return word{string(make([]byte, 100_001))}, nil
	})
	b, _ := pairWith(t, call.Config{MaxMessage: 100_000}, nil, long)
	_, err = echo.Call(ctx, b, word{})
	assert.Equal(t, call.CodeTooLarge, asError(t, err).Code)
	_, err = echo.Call(ctx, a, word{"the connection works on"})
	assert.NoError(t, err)
}

func TestPanic_IsReportedWithItsStack(t *testing.T) {
	mux := call.NewMux()
	echo.Handle(mux, func(context.Context, word) (word, error) { return explode() })
	panics := make(chan any, 1)
	a, _ := pairWith(t, call.Config{OnPanic: func(method string, value any, stack []byte) {
		assert.Equal(t, "echo", method)
		assert.Contains(t, string(stack), "explode")
		panics <- value
	}}, nil, mux)
	for range 3 {
		_, err := echo.Call(testkit.Context(t), a, word{})
		e := asError(t, err)
		assert.Equal(t, call.CodePanic, e.Code)
		assert.EqualError(t, err, "call: echo: panic: boom")
		assert.Contains(t, e.Stack, "call_test.explode")
		assert.Equal(t, "boom", testkit.Receive(t, panics))
	}
}

func explode() (word, error) { panic("boom") }
