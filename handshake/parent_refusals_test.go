package handshake_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/internal/access"
	"github.com/spawnwire/spawnwire/internal/frame"
)

// listenLimited is like listen, but the log has its usual limit.
func listenLimited(t testing.TB, n link, cfg handshake.ListenerConfig) *handshake.Listener {
	t.Helper()
	l, err := handshake.Listen(n.listen(t), cfg)
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	return l
}

func TestRefusalLog_HasOneLinePerCause(t *testing.T) {
	overNetworks(t, func(t *testing.T, n link) {
		book := newLogbook()
		l := listenLimited(t, n, handshake.ListenerConfig{Logger: book.logger(), MaxPending: 20})
		_, ticket := expect(t, l, nil)
		wrong, unknown := handshake.NewTicket(ticket.Addr, ticket.ID), ticket
		unknown.ID = handshake.NewID()
		oversize := binary.LittleEndian.AppendUint32(nil, access.PreAuthLimit+1)

		const times = 10
		for range times {
			requireJoinRefused(t, wrong)
			requireJoinRefused(t, unknown)
			requireRefused(t, say(t, ticket.Addr, append(oversize, byte(frame.KindHello))))
			requireRefused(t, say(t, ticket.Addr, frameOf(frame.KindHello, []byte{0xff})))
			cut := dial(t, ticket.Addr)
			require.NoError(t, cut.(interface{ CloseWrite() error }).CloseWrite())
			requireRefused(t, cut)
		}
		var conns []net.Conn
		for range 20 + times {
			conns = append(conns, dial(t, ticket.Addr))
		}
		for _, conn := range conns[:times] {
			requireDropped(t, conn)
		}
		require.NoError(t, l.Close())

		lines := make(map[string]int)
		for _, e := range book.with(t, 6, saysRefused) {
			lines[e.attrs["cause"]]++
			assert.NotEmpty(t, e.attrs["reason"])
			assert.Contains(t, e.attrs, "remote")
			assert.Contains(t, e.attrs, "pid")
			assert.NotContains(t, e.attrs, "unlogged")
		}
		assert.Equal(t, map[string]int{"wrong secret": 1, "unknown id": 1, "too large": 1,
			"malformed": 1, "cut": 1, "crowded out": 1}, lines)
	})
}

func TestRefusalLog_CountsUnloggedOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // for its fake clock
		r := handshake.NewRefusals()
		count := func(cause string) string { return fmt.Sprint(r.Count(cause)) }
		assert.Equal(t, "true 0", count("cut"), "the first has a line at once")
		for range 5 {
			assert.Equal(t, "false 0", count("cut"))
		}
		assert.Equal(t, "true 0", count("malformed"), "each cause for itself")
		time.Sleep(10*time.Second - 1)
		assert.Equal(t, "false 0", count("cut"))
		time.Sleep(time.Nanosecond)
		assert.Equal(t, "true 6", count("cut"))
		assert.Equal(t, "false 0", count("cut"))
		time.Sleep(10 * time.Second)
		assert.Equal(t, "true 1", count("cut"))
		time.Sleep(time.Hour)
		assert.Equal(t, "true 0", count("cut"))
	})
}

// TestRefusalLog_EveryRefusalHasACause sends the input of each of the strangers.
// Other ways to be refused have their own tests.
func TestRefusalLog_EveryRefusalHasACause(t *testing.T) {
	book := newLogbook()
	l := overUnix(t, handshake.ListenerConfig{Logger: book.logger()})
	_, ticket := expect(t, l, nil)
	all := strangers(t, ticket)
	for _, s := range all {
		requireRefused(t, say(t, ticket.Addr, s.says))
	}
	requireRefused(t, say(t, ticket.Addr, frameOf(frame.KindHello, bytes.Repeat([]byte{0}, 100))))
	for _, e := range book.with(t, len(all)+1, saysRefused) {
		assert.NotEqual(t, "other", e.attrs["cause"], e.attrs["reason"])
	}
}
