package handshake_test

import (
	"bytes"
	"encoding/gob"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fxamacker/cbor/v2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/transport"
)

func mustAddr(t testing.TB, s string) transport.Addr {
	t.Helper()
	addr, err := transport.ParseAddr(s)
	require.NoError(t, err)
	return addr
}

func TestTicket_IsParsedAsEncoded(t *testing.T) {
	for _, addr := range []string{
		"uds:///run/user/1000/x.sock", "uds:///tmp/a dir  with spaces /x", "uds://@abstract name",
		"tcp://127.0.0.1:7000", "tcp://[::1]:7000",
		"tls://192.0.2.7:7000#" + strings.Repeat("0a", 32),
	} {
		t.Run(addr, func(t *testing.T) {
			ticket := handshake.NewTicket(mustAddr(t, addr), handshake.NewID())
			again, err := handshake.ParseTicket(ticket.Encode())
			require.NoError(t, err)
			assert.Equal(t, ticket.Encode(), again.Encode())
		})
	}
	t.Run("and looks as documented", func(t *testing.T) {
		ticket := handshake.NewTicket(mustAddr(t, "tcp://127.0.0.1:7000"),
			"abc").WithSecret(append([]byte{0xab}, append(make([]byte, 30), 0xcd)...))
		assert.Equal(t, "1 abc ab"+strings.Repeat("00", 30)+
			"cd tcp://127.0.0.1:7000", ticket.Encode())
	})
}

func TestTicket_ErrorKeepsTheSecret(t *testing.T) {
	secret := strings.Repeat("5ec2e7ab", 8)
	for _, test := range []struct{ name, text, want string }{
		{"nothing", "", "version 1"},
		{"another version", "2 id " + secret + " tcp://127.0.0.1:1", "version 1"},
		{"a version that begins alike", "10 id " + secret + " tcp://127.0.0.1:1", "version 1"},
		{"only a version", "1", "want version, id, secret and address"},
		{"no address", "1 id " + secret, "want version, id, secret and address"},
		{"no id", "1  " + secret + " tcp://127.0.0.1:1", "id"},
		{"the secret in the id's place", "1 " + secret + " id tcp://127.0.0.1:1", "secret"},
		{"a long id", "1 " + secret + "x " + secret + " tcp://127.0.0.1:1", "65 bytes"},
		{"an id that is not ASCII", "1 é " + secret + " tcp://127.0.0.1:1", "ASCII"},
		{"a short secret", "1 id " + secret[1:] + " tcp://127.0.0.1:1", "64 hexadecimal"},
		{"a long secret", "1 id " + secret + "00 tcp://127.0.0.1:1", "64 hexadecimal"},
		{"a secret that is not hexadecimal",
			"1 id x" + secret[1:] + " tcp://127.0.0.1:1", "64 hexadecimal"},
		{"two spaces", "1 id  " + secret + " tcp://127.0.0.1:1", "64 hexadecimal"},
		{"a bad address", "1 id " + secret + " ftp://127.0.0.1:1", `unknown scheme "ftp"`},
		{"TLS with no pin", "1 id " + secret + " tls://127.0.0.1:1",
			"tls://127.0.0.1:1 pins no certificate"},
		{"TLS with half a pin", "1 id " + secret + " tls://127.0.0.1:1#" + strings.Repeat("0a", 16),
			"64 hexadecimal digits"},
		{"an empty address", "1 id " + secret + " ", "address"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := handshake.ParseTicket(test.text)
			require.ErrorIs(t, err, handshake.ErrBadTicket)
			require.ErrorContains(t, err, test.want)
			require.ErrorContains(t, err, handshake.TicketEnv)
			assert.NotContains(t, strings.ToLower(fmt.Sprintf("%+v %#v", err, err)), secret[8:24])
		})
	}
}

func TestTicket_IsTakenOnce(t *testing.T) {

	t.Setenv(handshake.TicketEnv, "") // restores the old value when the test ends
	require.NoError(t, os.Unsetenv(handshake.TicketEnv))
	_, ok, err := handshake.TakeTicket()
	require.NoError(t, err)
	require.False(t, ok)

	ticket := handshake.NewTicket(mustAddr(t, "tcp://127.0.0.1:7000"), "abc")
	require.NoError(t, os.Setenv(handshake.TicketEnv, ticket.Encode()))
	got, ok, err := handshake.TakeTicket()
	require.NoError(t, err)
	require.True(t, ok)
	assert.Equal(t, ticket.Encode(), got.Encode())
	_, there := os.LookupEnv(handshake.TicketEnv)
	require.False(t, there)
	_, ok, err = handshake.TakeTicket()
	require.NoError(t, err)
	require.False(t, ok)

	file := filepath.Join(t.TempDir(), "ticket")
	require.NoError(t, os.WriteFile(file, []byte(ticket.Encode()+"\n"), 0o400))
	require.NoError(t, os.Setenv(handshake.TicketEnv, "file:"+file))
	got, ok, err = handshake.TakeTicket()
	require.NoError(t, err)
	require.True(t, ok)
	assert.Equal(t, ticket.Encode(), got.Encode())
	require.NoError(t, os.Setenv(handshake.TicketEnv, "file:"+file+"x"))
	_, ok, err = handshake.TakeTicket()
	require.True(t, ok)
	require.ErrorIs(t, err, handshake.ErrBadTicket)
	require.ErrorIs(t, err, fs.ErrNotExist)

	for _, bad := range []string{"", "1 id what", "file:"} {
		require.NoError(t, os.Setenv(handshake.TicketEnv, bad))
		_, ok, err = handshake.TakeTicket()
		require.True(t, ok, "there is one, but it is bad")
		require.Error(t, err)
		_, there = os.LookupEnv(handshake.TicketEnv)
		require.False(t, there, "a bad ticket goes too")
	}
}

func TestTicket_DoesNotPrintItsSecret(t *testing.T) {
	ticket := handshake.NewTicket(mustAddr(t, "tcp://127.0.0.1:7000"), "abc")
	for _, verb := range []string{"%v", "%s", "%x", "%X", "%q", "%d", "%#v", "%+v",
		"%#x", "% x", "%08b", "%o"} {
		for _, v := range []any{ticket, &ticket, []any{ticket},
			map[string]handshake.Ticket{"x": ticket}} {
			requireKeeps(t, ticket, verb, fmt.Sprintf(verb, v))
		}
	}
	var out bytes.Buffer
	for _, h := range []slog.Handler{slog.NewTextHandler(&out, nil),
		slog.NewJSONHandler(&out, nil)} {
		slog.New(h).Info("x", "ticket", ticket, "pointer", &ticket, "list", []any{ticket})
	}
	requireKeeps(t, ticket, "slog", out.String())
	for name, marshal := range map[string]func(any) ([]byte, error){
		"json": json.Marshal,
		"CBOR": cbor.Marshal,
		"gob": func(v any) ([]byte, error) {
			var b bytes.Buffer
			err := gob.NewEncoder(&b).Encode(v)
			return b.Bytes(), err
		},
	} {
		b, err := marshal(ticket)
		require.NoError(t, err)
		requireKeeps(t, ticket, name, string(b))
	}
	assert.Empty(t, handshake.Ticket{ID: "abc"}.Encode(), "a ticket without a secret")
}

// requireKeeps fails if a text has the secret in one of the usual forms of
// printed bytes.
func requireKeeps(t testing.TB, ticket handshake.Ticket, what string, texts ...string) {
	t.Helper()
	some := ticket.Secret()[4:12]
	forms := []string{string(some), hex.EncodeToString(some)}
	for _, verb := range []string{"%d", "%x", "% x", "%b", "%o", "%q", "%#v"} {
		forms = append(forms, strings.Trim(fmt.Sprintf(verb, some), "[]{}"),
			strings.TrimRight(strings.TrimPrefix(fmt.Sprintf(verb, some), "[]byte{"), "}"))
	}
	for _, text := range texts {
		for _, form := range forms {
			require.NotContains(t, strings.ToLower(text), strings.ToLower(form), what)
		}
	}
}

func TestSecret_HoldersDoNotPrintIt(t *testing.T) {
	l := overUnix(t, handshake.ListenerConfig{})
	x, ticket := expect(t, l, nil)
	j := join(t, ticket, withControl)
	other, otherTicket := expect(t, l, nil)
	requireKeeps(t, otherTicket, "Expected", fmt.Sprintf("%v", other), fmt.Sprintf("%+v", other),
		fmt.Sprintf("%#v", other))
	require.NoError(t, j.Ready(testkit.Context(t), nil))
	peer := wait(t, x) // before, the conversation changes x
	requireKeeps(t, ticket, "Expected", fmt.Sprintf("%+v", x))
	for _, verb := range []string{"%v", "%+v", "%#v", "%d"} {
		for _, v := range []any{peer, *j, j} {
			assert.NotRegexp(t, `(\[|\{)((0x)?[0-9a-f]+,? ?){32}(\]|\})`, fmt.Sprintf(verb, v),
				"the key of the session")
		}
	}
}

func TestTicket_IDsAndSecretsAreUnique(t *testing.T) {
	l := overUnix(t, handshake.ListenerConfig{})
	ids, secrets := make(map[string]bool), make(map[string]bool)
	for range 1000 {
		_, ticket := expect(t, l, nil)
		assert.Len(t, ticket.ID, 32)
		ids[ticket.ID], secrets[string(ticket.Secret())] = true, true
	}
	assert.Len(t, ids, 1000)
	assert.Len(t, secrets, 1000)
}
