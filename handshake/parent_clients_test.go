package handshake_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/internal/access"
	"github.com/spawnwire/spawnwire/internal/frame"
	"github.com/spawnwire/spawnwire/internal/testkit"
)

// nested returns CBOR arrays nested to the depth.
func nested(depth int) []byte { return append(bytes.Repeat([]byte{0x81}, depth-1), 0x80) }

// A stranger is a client that connects and sends anything but a valid hello.
type stranger struct {
	name string
	says []byte
}

func strangers(t testing.TB, ticket handshake.Ticket) []stranger {
	key := ticket.Secret()
	hello := func(payload []byte) []byte {
		return frameOf(frame.KindHello, sealed(t, key, "spawnwire hello", payload))
	}
	with := func(key string, value any) []byte {
		msg := helloFields(ticket.ID)
		msg[key] = value
		return hello(encoded(t, msg))
	}
	good := encoded(t, helloFields(ticket.ID))
	oversize := binary.LittleEndian.AppendUint32(nil, access.PreAuthLimit+1)
	list := []stranger{
		{"an HTTP request", []byte("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")},
		{"a TLS client hello",
			[]byte("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + strings.Repeat("\x5a", 500))},
		{"an SSH banner", []byte("SSH-2.0-OpenSSH_9.6\r\n")},
		{"nulls", make([]byte, 64)},
		{"a frame that is announced too large", append(oversize, byte(frame.KindHello))},
		{"a frame that is announced as 4 GiB",
			[]byte{0xff, 0xff, 0xff, 0xff, byte(frame.KindHello)}},
		{"a hello of the largest size that is not CBOR",
			frameOf(frame.KindHello, bytes.Repeat([]byte{0xff}, access.PreAuthLimit-1))},
		{"an unknown kind", frameOf(0x7f, nil)},
		{"an empty hello", frameOf(frame.KindHello, nil)},
		{"a hello that is null", frameOf(frame.KindHello, []byte{0xf6})},
		{"a hello that is a number", frameOf(frame.KindHello, []byte{0x01})},
		{"a hello that is a map", frameOf(frame.KindHello, good)},
		{"a hello of one element", frameOf(frame.KindHello, encoded(t, []any{good}))},
		{"a hello of three elements",
			frameOf(frame.KindHello,
				encoded(t, []any{good, proof(key, "spawnwire hello", good), 1}))},
		{"a hello with no proof", frameOf(frame.KindHello, encoded(t, []any{good, []byte{}}))},
		{"a hello with half a proof",
			frameOf(frame.KindHello,
				encoded(t, []any{good, proof(key, "spawnwire hello", good)[:16]}))},
		{"a hello with a longer proof",
			frameOf(frame.KindHello,
				encoded(t, []any{good, append(proof(key, "spawnwire hello", good), 0)}))},
		{"a hello with a proof for another purpose",
			frameOf(frame.KindHello, sealed(t, key, "spawnwire attach", good))},
		{"a hello with something behind it",
			frameOf(frame.KindHello, append(sealed(t, key, "spawnwire hello", good), 0xf6))},
		{"a hello of indefinite length",
			frameOf(frame.KindHello,
				append(append([]byte{0x9f}, sealed(t, key, "spawnwire hello", good)[1:]...),
					0xff))},
		{"a hello in a tag",
			frameOf(frame.KindHello,
				append([]byte{0xc1}, sealed(t, key, "spawnwire hello", good)...))},
		{"a hello that is nested deeply", frameOf(frame.KindHello, nested(20000))},
		{"a hello with a very long array",
			frameOf(frame.KindHello, append([]byte{0x99, 0xff, 0x00}, make([]byte, 0xff00)...))},
		{"a payload that is empty", hello(nil)},
		{"a payload that is null", hello([]byte{0xf6})},
		{"a payload that is an array", hello([]byte{0x80})},
		{"a payload with a key twice",
			hello(append(append([]byte{0xa6}, good[1:]...), 0x62, 'i', 'd', 0x61, 'x'))},
		{"a payload with a long key twice",
			hello(twice(helloFields(ticket.ID), strings.Repeat("k\n", 10000)))},
		{"a payload of indefinite length", hello(append(append([]byte{0xbf}, good[1:]...), 0xff))},
		{"a payload that is nested deeply", with("deep", cbor.RawMessage(nested(9)))},
		{"a payload with text that is not UTF-8", with("name", cbor.RawMessage{0x62, 0xc3, 0x28})},
		{"a payload with very many keys", with("x", manyKeys(65))},
		{"an id in capitals", hello(bytes.Replace(good, []byte("\x62id"), []byte("\x62ID"), 1))},
		{"ping", frameOf(frame.KindPing, []byte("12345678"))},
		{"cancel", frameOf(frame.KindCancel, []byte{0xa0})},
		{"goodbye", frameOf(frame.KindGoodbye, encoded(t, fields{"status": 0}))},
		{"failed", frameOf(frame.KindFailed,
			encoded(t, fields{"phase": "spec", "code": "error", "error": "not me"}))},
		{"ready", frameOf(frame.KindReady, encoded(t, fields{"timings": fields{}}))},
		{"a message", frameOf(frame.KindMessage, good)},
		{"a greet", frameOf(frame.KindGreet, good)},
		{"an attach that is not CBOR", frameOf(frame.KindAttach, []byte{0xff})},
		{"an attach for nobody",
			frameOf(frame.KindAttach,
				sealed(t, key, "spawnwire attach",
					encoded(t, fields{"id": strings.Repeat("\n", 30000),
						"nonce": make([]byte, 32)})))},
		{"an attach for a child that is not here",
			frameOf(frame.KindAttach,
				sealed(t, key, "spawnwire attach",
					encoded(t, fields{"id": ticket.ID, "nonce": make([]byte, 32)})))},
	}
	for _, bad := range []struct {
		field string
		value any
	}{
		{"versions", 1}, {"versions", []int{1}}, {"versions", []int{1, 1, 1}},
		{"versions", []int{-1, 1}}, {"versions", "1"},
		{"id", nil}, {"id", 1}, {"id", []byte(ticket.ID)}, {"id", ""}, {"id", ticket.ID + "\n"},
		{"id", strings.Repeat("x", 65)},
		{"name", 1}, {"name", []byte("x")}, {"name", strings.Repeat("x", 257)},
		{"pid", "1"}, {"pid", -1}, {"pid", 1.5}, {"pid", uint64(1) << 63},
		{"nonce", nil}, {"nonce", "12345678901234567890123456789012"}, {"nonce", make([]byte, 31)},
		{"nonce", make([]byte, 33)}, {"nonce", make([]byte, 60000)},
		{"features", "control"}, {"features", []int{1}}, {"features", []string{""}},
		{"features", []string{strings.Repeat("x", 65)}}, {"features", make([]string, 65)},
	} {
		list = append(list,
			stranger{fmt.Sprintf("a hello whose %s is %.40v", bad.field, bad.value),
				with(bad.field, bad.value)})
	}
	return list
}

// twice returns the encoded map with one more key, twice.
func twice(msg fields, key string) []byte {
	b, _ := cbor.Marshal(msg)
	b[0] += 2
	for range 2 {
		k, _ := cbor.Marshal(key)
		b = append(append(b, k...), 0)
	}
	return b
}

func manyKeys(n int) map[int]int {
	m := make(map[int]int)
	for i := range n {
		m[i] = i
	}
	return m
}

func TestClient_UnauthenticatedOnesDisturbNobody(t *testing.T) {
	overNetworks(t, func(t *testing.T, n link) {
		book := newLogbook()
		l := listen(t, n, handshake.ListenerConfig{Logger: book.logger()})
		x, ticket := expect(t, l, nil)
		all := strangers(t, ticket)
		for _, s := range all {
			t.Run(s.name, func(t *testing.T) {
				requireRefused(t, say(t, ticket.Addr, s.says))
			})
		}
		for _, reason := range book.refusals(t, len(all)) {
			assert.NotEmpty(t, reason)
			assert.LessOrEqual(t, len(reason), 500,
				"a stranger cannot fill the log: %.100s", reason)
		}
		requireJoins(t, x, ticket)
	})
}

func TestHello_MayHaveUnknownFields(t *testing.T) {
	l := overUnix(t, handshake.ListenerConfig{})
	_, ticket := expect(t, l, nil)
	msg := helloFields(ticket.ID)
	msg["colour"] = fields{"red": []int{1, 2, 3}}
	msg["deep"] = cbor.RawMessage(nested(7)) // in a map: eight levels
	msg["features"] = []string{"telepathy"}
	requireFrame(t, say(t, ticket.Addr, helloFrame(t, ticket, msg)), frame.KindWelcome)
}

func TestHello_ExtensionFramesBeforeItAreSkipped(t *testing.T) {
	l := overUnix(t, handshake.ListenerConfig{})
	_, ticket := expect(t, l, nil)
	conn := say(t, ticket.Addr, frameOf(frame.KindExtension, make([]byte, 1000)))
	_, err := conn.Write(helloFrame(t, ticket, helloFields(ticket.ID)))
	require.NoError(t, err)
	requireFrame(t, conn, frame.KindWelcome)
}

func TestClient_ThousandSilentOnesDelayNobody(t *testing.T) {
	overNetworks(t, func(t *testing.T, n link) {
		const silent = 1000
		l := listen(t, n, handshake.ListenerConfig{HelloTimeout: patience})
		conns := make([]net.Conn, silent)
		for i := range conns {
			conns[i] = dial(t, l.Addr())
		}
		start := time.Now()
		requireJoinsAnother(t, l)
		assert.Less(t, time.Since(start), patience/4)
		testkit.Eventually(t, "all are accepted", func() bool { return l.Held().Pending == silent })
		require.NoError(t, l.Close())
		for _, conn := range conns {
			requireDropped(t, conn)
		}
	})
}

func TestClient_SilentOneIsDropped(t *testing.T) {
	t.Parallel()
	overNetworks(t, func(t *testing.T, n link) {
		book := newLogbook()
		// the timeout must leave time for the TLS handshake
		l := listen(t, n, handshake.ListenerConfig{HelloTimeout: enough, Logger: book.logger()})
		requireDropped(t, dial(t, l.Addr()))
		assert.Contains(t, book.refusals(t, 1)[0], "no hello in time")
	})
}

func TestClient_SlowOneIsDropped(t *testing.T) {
	t.Parallel()
	overNetworks(t, func(t *testing.T, n link) {
		l := listen(t, n, handshake.ListenerConfig{HelloTimeout: enough})
		x, ticket := expect(t, l, nil)
		start := time.Now()
		conn := dial(t, ticket.Addr)
		var slow sync.WaitGroup
		slow.Go(func() {
			tick := time.NewTicker(time.Millisecond)
			defer tick.Stop()
			for _, b := range frameOf(frame.KindHello, make([]byte, access.PreAuthLimit-1)) {
				if _, err := conn.Write([]byte{b}); err != nil {
					return
				}
				<-tick.C
			}
		})
		requireJoins(t, x, ticket)
		slow.Wait() // ends when the connection does
		assert.GreaterOrEqual(t, time.Since(start), enough)
		assert.Less(t, time.Since(start), patience/2)
	})
}

func TestClient_ManyChildrenAreNoFlood(t *testing.T) {
	const children = 10
	l := overUnix(t, handshake.ListenerConfig{MaxPending: 1, HelloTimeout: patience})
	for range children {
		expect(t, l, nil)
	}
	var conns []net.Conn
	for i := range 2 * children {
		conns = append(conns, dial(t, l.Addr()))
		testkit.Eventually(t, "it is accepted", func() bool { return l.Held().Pending == i+1 })
	}
	dial(t, l.Addr())
	requireDropped(t, conns[0])
	assert.Equal(t, 2*children, l.Held().Pending)
}

func TestClient_OneTooManyDropsTheOldest(t *testing.T) {
	overNetworks(t, func(t *testing.T, n link) {
		const most = 5
		book := newLogbook()
		l := listen(t, n,
			handshake.ListenerConfig{MaxPending: most,
				HelloTimeout: patience, Logger: book.logger()})
		x, ticket := expect(t, l, nil)
		var conns []net.Conn
		for i := range 3 * most {
			conns = append(conns, dial(t, l.Addr()))
			testkit.Eventually(t, "it is accepted", func() bool {
				return l.Held().Pending == min(i+1, most)
			})
			if i >= most {
				requireDropped(t, conns[i-most]) // with a frame, like other refused clients
				assert.Contains(t, book.refusals(t, i-most+1)[i-most], "more than 5")
			}
		}
		requireJoins(t, x, ticket) // one more, which sends its hello at once
		requireDropped(t, conns[2*most])
		for _, conn := range conns[2*most+1:] { // the others can still send theirs
			x, ticket := expect(t, l, nil)
			_, err := conn.Write(helloFrame(t, ticket, helloFields(ticket.ID)))
			require.NoError(t, err)
			requireFrame(t, conn, frame.KindWelcome)
			x.Cancel()
		}
		testkit.Eventually(t, "nobody is left", func() bool { return l.Held().Pending == 0 })
	})
}
