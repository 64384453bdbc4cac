package spawntest

import (
	"net"
	"testing"

	"github.com/spawnwire/spawnwire/call"
	"github.com/spawnwire/spawnwire/transport"
)

// Serve serves the methods of mux in this process, and returns a Conn to call them.
// It is for unit tests of handlers. There is no child, and nothing is registered.
// callbacks has the methods for the handlers to call. It may be nil.
//
// Both sides end with the test. The test fails if a handler has not returned then.
func Serve(t testing.TB, mux, callbacks *call.Mux) *call.Conn {
	t.Helper()
	near, far := net.Pipe()
	open := func(conn net.Conn, mux *call.Mux) *call.Conn {
		ch := transport.New(conn, transport.Config{})
		c := call.New(call.Over(ch), mux)
		t.Cleanup(func() {
			ch.Abort()
			if err := c.Close(); err != nil {
				t.Errorf("spawntest: %v", err)
			}
		})
		return c
	}
	open(far, mux)
	return open(near, callbacks)
}
