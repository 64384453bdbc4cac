package tcp

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/transport"
)

// useDNS makes answer resolve all names. n counts the questions for IPv4 from 0. Questions
// for IPv6 get no address.
func useDNS(t *testing.T, answer func(n int) []string) {
	t.Helper()
	var asked atomic.Int64
	old := net.DefaultResolver
	t.Cleanup(func() { net.DefaultResolver = old })
	net.DefaultResolver = &net.Resolver{PreferGo: true,
		Dial: func(context.Context, string, string) (net.Conn, error) {
			client, server := net.Pipe()
			go func() {
				defer server.Close()
				for {
					question, err := readDNS(server)
					if err != nil {
						return
					}
					var ips []string
					if isIPv4Question(question) {
						ips = answer(int(asked.Add(1)) - 1)
					}
					if err := writeDNS(server, question, ips); err != nil {
						return
					}
				}
			}()
			return client, nil
		}}
}

// readDNS reads a message and the length before it, as on TCP (RFC 1035, section 4.2.2).
func readDNS(r io.Reader) ([]byte, error) {
	var size [2]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	msg := make([]byte, binary.BigEndian.Uint16(size[:]))
	_, err := io.ReadFull(r, msg)
	return msg, err
}

const dnsHeader = 12

// questionEnd returns the end of a message's question: of its name, type and class.
func questionEnd(msg []byte) int {
	i := dnsHeader
	for msg[i] != 0 {
		i += 1 + int(msg[i])
	}
	return i + 5
}

func isIPv4Question(msg []byte) bool {
	return binary.BigEndian.Uint16(msg[questionEnd(msg)-4:]) == 1
}

func writeDNS(w io.Writer, question []byte, ips []string) error {
	msg := append([]byte{0, 0}, question[:2]...) // room for the length, then the same id
	msg = append(msg, 0x81, 0x80, 0, 1, 0, byte(len(ips)), 0, 0, 0, 0)
	msg = append(msg, question[dnsHeader:questionEnd(question)]...)
	for _, ip := range ips {
		// the question's name, A, IN, TTL 0
		msg = append(msg, 0xc0, dnsHeader, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4)
		msg = append(msg, netip.MustParseAddr(ip).AsSlice()...)
	}
	binary.BigEndian.PutUint16(msg, uint16(len(msg)-2))
	_, err := w.Write(msg)
	return err
}

func TestHostName_IsResolved(t *testing.T) {
	for name, tc := range map[string]struct {
		ips    []string
		remote string
	}{
		"loopback only":                  {[]string{"127.0.0.1"}, ""},
		"several loopback addresses":     {[]string{"127.0.0.1", "127.0.0.2"}, ""},
		"a remote one":                   {[]string{"192.0.2.1"}, "192.0.2.1"},
		"a remote one among loopback":    {[]string{"127.0.0.1", "192.0.2.1"}, "192.0.2.1"},
		"the wildcard, which is not one": {[]string{"0.0.0.0"}, "0.0.0.0"},
	} {
		t.Run(name, func(t *testing.T) {
			useDNS(t, func(int) []string { return tc.ips })
			var tr Transport
			l, err := tr.Listen(testkit.Context(t), tcpAddr("peer.test:0"))
			if tc.remote != "" {
				var remote *RemoteError
				require.ErrorAs(t, err, &remote)
				assert.Equal(t, tc.remote, remote.IP.String())
				_, err = tr.Dial(testkit.Context(t), tcpAddr("peer.test:1"))
				require.ErrorAs(t, err, &remote)
				return
			}
			require.NoError(t, err)
			defer l.Close()
			connect(t, tr, l, tcpAddr("peer.test:"+portOf(t, l)))
		})
	}
}

// A DNS server must not change its answer between the check and the use of an address.
func TestHostName_IsResolvedOnce(t *testing.T) {
	questions := 0
	useDNS(t, func(n int) []string {
		questions = n + 1
		if n == 0 {
			return []string{"127.0.0.1"}
		}
		return []string{"192.0.2.1"}
	})
	server := mustListen(t, Transport{}, "127.0.0.1:0")
	connect(t, Transport{}, server, tcpAddr("peer.test:"+portOf(t, server)))
	assert.Equal(t, 1, questions)
}

func noDNS(t *testing.T) {
	t.Helper()
	old := net.DefaultResolver
	t.Cleanup(func() { net.DefaultResolver = old })
	net.DefaultResolver = &net.Resolver{PreferGo: true,
		Dial: func(context.Context, string, string) (net.Conn, error) {
			return nil, errors.New("no DNS here")
		}}
}

func TestHostName_LocalhostNeedsNoDNS(t *testing.T) {
	noDNS(t)
	ips, err := lookup(testkit.Context(t), "localhost")
	require.NoError(t, err)
	assert.Equal(t, []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1")}, ips)
	l := mustListen(t, Transport{}, "localhost:0")
	connect(t, Transport{}, l, transport.AddrOf(l.Addr()))
}

func TestHostName_CannotBeResolved(t *testing.T) {
	noDNS(t)
	var dnsErr *net.DNSError
	_, err := Transport{}.Dial(testkit.Context(t), tcpAddr("nowhere.invalid:1"))
	assert.ErrorAs(t, err, &dnsErr)
	_, err = Transport{}.Listen(testkit.Context(t), tcpAddr("nowhere.invalid:1"))
	assert.ErrorAs(t, err, &dnsErr)
}
