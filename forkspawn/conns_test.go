//go:build unix

package forkspawn_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
)

// The channel becomes a stream of bytes, and early bytes are not lost. The child's
// end is an exact error.
func TestConn_TakesTheChannelOver(t *testing.T) {
	spawntest.NoLeaks(t)
	networks(t, func(t *testing.T, listen transport.Addr) {
		s := newSpawner(t, forkspawn.Config{Listen: listen})
		c := spawn(t, s, spawnspec.Spec{Entry: "takes-channel"})
		ctx := testkit.Context(t)
		var text string
		require.NoError(t, c.Recv(ctx, &text))
		conn, err := c.Conn(ctx)
		require.NoError(t, err)
		require.ErrorIs(t, c.Send(ctx, 1), transport.ErrChannelClosed)
		require.ErrorIs(t, c.Recv(ctx, &text), transport.ErrChannelClosed)
		require.ErrorIs(t, testkit.Second(c.Conn(ctx)), transport.ErrChannelClosed)

		in := bufio.NewReader(conn)
		line, err := in.ReadString('\n')
		require.NoError(t, err)
		assert.Equal(t, "a line\n", line)
		long := strings.Repeat("x", 1<<20)
		wrote := testkit.Background(t, func() error {
			_, err := io.WriteString(conn, long+"\n")
			return err
		})
		line, err = in.ReadString('\n')
		require.NoError(t, err)
		assert.Equal(t, long+"\n", line)
		require.NoError(t, wrote())

		require.NoError(t, conn.SetReadDeadline(time.Now()))
		_, err = in.ReadByte()
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.NoError(t, conn.SetReadDeadline(time.Time{}))
		require.NoError(t, conn.(interface{ CloseWrite() error }).CloseWrite())
		_, err = in.ReadByte()
		var exit *forkspawn.ExitError
		require.ErrorAs(t, err, &exit)
		assert.Equal(t, 3, exit.Status.Code())
		_, err = io.WriteString(conn, "x")
		assert.Error(t, err)
	})
}

// A waiting message is not lost in the stream.
func TestConn_WaitsForNoMessage(t *testing.T) {
	s := newSpawner(t, forkspawn.Config{})
	c := spawn(t, s, spawnspec.Spec{Entry: "echo"})
	ctx := testkit.Context(t)
	require.NoError(t, c.Send(ctx, "hello"))
	_, err := c.RecvBytes(ctx, nil) // another kind, so the message waits
	require.Error(t, err)
	_, err = c.Conn(ctx)
	require.ErrorContains(t, err, "a message is not received yet")
	var reply string
	require.NoError(t, c.Recv(ctx, &reply))
	assert.Equal(t, "hello", reply)
	_, err = c.Open(ctx)
	require.ErrorIs(t, err, forkspawn.ErrNoConnections)
	_, err = start(t, s, "exec sleep 300").Conn(ctx)
	require.ErrorIs(t, err, forkspawn.ErrNoChannel)
}

// HTTP works over connections to executed, forked and spare children, and to an entry
// in this process.
func TestConn_OpenAndAcceptServeHTTP(t *testing.T) {
	spawntest.NoLeaks(t)
	more := forkspawn.Command{Connections: true}
	for name, cfg := range map[string]forkspawn.Config{
		"uds": {Command: more}, "spare": {Command: more, Spares: 1},
		"tcp":       {Command: more, Listen: transport.Addr{Scheme: "tcp", Target: "127.0.0.1:0"}},
		"inprocess": {Command: more, Method: forkspawn.MethodInProcess},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSpawner(t, cfg)
			ctx := testkit.Context(t)
			require.NoError(t, s.AwaitSpares(ctx))
			c := spawn(t, s, spawnspec.Spec{Entry: "serves-http"})
			client := &http.Client{Transport: &http.Transport{
				DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
					return c.Open(ctx)
				}}}
			defer client.CloseIdleConnections()
			var all sync.WaitGroup
			for range 8 {
				all.Go(func() {
					text := strings.Repeat("hello", 10_000)
					r, err := client.Post("http://child/echo", "", strings.NewReader(text))
					if !assert.NoError(t, err) {
						return
					}
					defer r.Body.Close()
					body, err := io.ReadAll(r.Body)
					assert.NoError(t, err)
					assert.True(t, text == string(body), "the same text comes back")
				})
			}
			all.Wait()
			if name == "inprocess" {
				return // an exit would end the test
			}
			_, err := client.Get("http://child/exit")
			var exit *forkspawn.ExitError
			require.ErrorAs(t, err, &exit)
			assert.Equal(t, 4, exit.Status.Code())
			_, err = c.Open(ctx)
			require.ErrorAs(t, err, &exit)
		})
	}
}

// The ends of a wait for a connection are typed.
func TestConn_AcceptEndsWithItsContext(t *testing.T) {
	spawntest.NoLeaks(t)
	s := newSpawner(t, forkspawn.Config{Method: forkspawn.MethodInProcess,
		Command: forkspawn.Command{Connections: true}})
	c := spawn(t, s, spawnspec.Spec{Entry: "accepts"})
	var text string
	require.NoError(t, c.Recv(testkit.Context(t), &text))
	assert.Contains(t, text, "accept a connection: context deadline exceeded")
	conn, err := c.Open(testkit.Context(t))
	require.NoError(t, err)
	defer conn.Close()
	got, err := io.ReadAll(conn)
	require.NoError(t, err)
	assert.Equal(t, "late", string(got))
}

func init() {
	moreEntries["accepts"] = func(ctx context.Context, p *forkspawn.Parent) error {
		short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
		defer cancel()
		_, err := p.Accept(short)
		if err == nil {
			return errors.New("there is a connection")
		}
		if err := p.Send(ctx, err.Error()); err != nil {
			return err
		}
		conn, err := p.Accept(ctx)
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = io.WriteString(conn, "late")
		return err
	}
}
