//go:build unix

package forkspawn_test

import (
	"errors"
	"io"
	"net"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/internal/testkit/nettest"
	"github.com/spawnwire/spawnwire/internal/testkit/roles"
	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
	"github.com/spawnwire/spawnwire/transport/tls"
)

// readdressed is a command with the role joins. A shell changes the address in
// the ticket before; address is shell code.
func readdressed(address string) forkspawn.Command {
	cmd := roles.Command("joins")
	cmd.Args = []string{"-c",
		`T=$SPAWNWIRE_TICKET; export SPAWNWIRE_TICKET="${T% *} ` + address + `"; exec ` + cmd.Path}
	cmd.Path = "sh"
	return cmd
}

// requireEchoes checks that a child echoes.
func requireEchoes(t testing.TB, c *forkspawn.Child, v any) {
	t.Helper()
	require.NoError(t, c.Send(testkit.Context(t), v))
	var got any
	require.NoError(t, c.Recv(testkit.Context(t), &got))
	require.EqualValues(t, v, got)
}

func TestTLS_AnotherCertificateIsReported(t *testing.T) {
	s := newSpawner(t, forkspawn.Config{Listen: nettest.Addr(t, "tls://127.0.0.1:0")})
	for name, c := range map[string]struct {
		address string
		says    []string
	}{
		"another pin": {"`echo ${T##* } | cut -d# -f1`#`echo ${T##*#} | tr 0-9a-f 1-9a-f0`",
			[]string{"the listener has another certificate than the one that is pinned"}},
		"no pin": {"`echo ${T##* } | cut -d# -f1`",
			[]string{handshake.TicketEnv, "pins no certificate"}},
	} {
		t.Run(name, func(t *testing.T) {
			boot := spawnError(t, testkit.Context(t), s, readdressed(c.address),
				spawnspec.Spec{Name: "careful"})
			assert.Equal(t, handshake.PhaseConnect, boot.Phase)
			assert.Equal(t, forkspawn.ExitedStatus(1), boot.Status)
			for _, words := range c.says {
				assert.Contains(t, boot.Error(), words)
			}
		})
	}
	t.Run("and the right one is served all the same", func(t *testing.T) {
		c, err := s.Spawn(testkit.Context(t), spawnspec.Spec{Name: "right"},
			forkspawn.WithCommand(roles.Command("joins")))
		require.NoError(t, err)
		requireEchoes(t, c, "hello")
	})
}

// forward accepts connections, dials another one for each, and copies in both
// directions. It counts the connections.
func forward(t testing.TB, accept func() (net.Conn, error),
	dial func() (net.Conn, error)) *atomic.Int32 {
	count := new(atomic.Int32)
	go func() {
		for {
			near, err := accept()
			if err != nil {
				return
			}
			count.Add(1)
			go func() {
				defer near.Close()
				far, err := dial()
				if err != nil {
					return
				}
				defer far.Close()
				go func() {
					io.Copy(far, near)
					far.Close()
				}()
				io.Copy(near, far)
			}()
		}
	}()
	return count
}

func TestTLS_ProxyInTheMiddleIsFound(t *testing.T) {
	s := newSpawner(t, forkspawn.Config{Listen: nettest.Addr(t, "tls://127.0.0.1:0")})
	proxy, err := tls.Transport{}.Listen(testkit.Context(t), nettest.Addr(t, "tls://127.0.0.1:0"))
	require.NoError(t, err)
	defer proxy.Close()
	seen := forward(t, proxy.Accept,
		func() (net.Conn, error) { return tls.Transport{}.Dial(testkit.Context(t), s.Addr()) })
	target := transport.AddrOf(proxy.Addr()).Target
	boot := spawnError(t, testkit.Context(t), s, readdressed("tls://"+target+"#${T##*#}"),
		spawnspec.Spec{Name: "victim"})
	assert.Equal(t, handshake.PhaseConnect, boot.Phase)
	assert.Contains(t, boot.Error(),
		target+": the listener has another certificate than the one that is pinned")
	assert.EqualValues(t, 1, seen.Load())
}

// A forwarded port, as by ssh -R, is not an attack on TLS.
func TestTLS_ForwardedPortServesMessagesAndControl(t *testing.T) {
	gate, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer gate.Close()
	s := newSpawner(t, forkspawn.Config{Listen: nettest.Addr(t, "tls://127.0.0.1:0"),
		StopGrace: bound})
	seen := forward(t, gate.Accept,
		func() (net.Conn, error) { return net.Dial("tcp", s.Addr().Target) })
	c, err := s.Spawn(testkit.Context(t), spawnspec.Spec{Name: "beyond"},
		forkspawn.WithCommand(readdressed("tls://"+gate.Addr().String()+"#${T##*#}")))
	require.NoError(t, err)
	requireEchoes(t, c, strings.Repeat("large ", 1<<18))
	testkit.Eventually(t, "the control connection is there",
		func() bool { return seen.Load() == 2 })
	result, err := c.Stop(testkit.Context(t))
	require.NoError(t, err)
	assert.Equal(t, forkspawn.Asked, result.By, "%v", result)
}

// A parent under attack closes connections without an answer. The
// child must not take this for the end of the parent.
func TestTLS_ControlConnectionIsRetried(t *testing.T) {
	const cuts = 2
	for name, cutLate := range map[string]bool{"before TLS is set up": false, "later": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			gate, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			defer gate.Close()
			s := newSpawner(t, forkspawn.Config{Listen: nettest.Addr(t, "tls://127.0.0.1:0"),
				StopGrace: bound})
			var count atomic.Int32
			forward(t, gate.Accept, func() (net.Conn, error) {
				n := count.Add(1)
				cut := n > 1 && n <= 1+cuts // the first connection is the message channel
				if cut && !cutLate {
					return nil, errors.New("cut")
				}
				conn, err := net.Dial("tcp", s.Addr().Target)
				if cut && err == nil {
					// The parent's answer to the ClientHello arrives, and no more.
					conn = cutAfter{conn, new(atomic.Int32)}
				}
				return conn, err
			})
			child, err := s.Spawn(testkit.Context(t), spawnspec.Spec{Name: "cut"},
				forkspawn.WithCommand(readdressed("tls://"+gate.Addr().String()+"#${T##*#}")))
			require.NoError(t, err)
			testkit.Eventually(t, "one is not cut",
				func() bool { return count.Load() == 2+cuts })
			requireEchoes(t, child, "hello")
			result, err := child.Stop(testkit.Context(t))
			require.NoError(t, err)
			assert.Equal(t, forkspawn.Asked, result.By, "%v", result)
		})
	}
}

// cutAfter is a connection that ends after the first read.
type cutAfter struct {
	net.Conn
	reads *atomic.Int32
}

func (c cutAfter) Read(p []byte) (int, error) {
	if c.reads.Add(1) > 1 {
		c.Conn.Close()
		return 0, io.EOF
	}
	return c.Conn.Read(p)
}

// withoutTLS is a parent and a child that do not import transport/tls.
const withoutTLS = `package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/transport"
)

func main() {
	_, err := forkspawn.Join(context.Background(), forkspawn.JoinConfig{})
	if !errors.Is(err, forkspawn.ErrNotSpawned) {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(3)
	}
	listen := transport.Addr{Scheme: "tls", Target: "127.0.0.1:0"}
	_, err = forkspawn.New(forkspawn.Config{Listen: listen})
	fmt.Println(err)
}
`

func TestTLS_MissingImportIsNamed(t *testing.T) {
	program := testkit.BuildSource(t, withoutTLS)
	const want = `this program is built without TLS; add to it: import _ "github.com/spawnwire/spawnwire/transport/tls"`
	out, err := exec.Command(program).Output()
	require.NoError(t, err)
	assert.Contains(t, string(out), "forkspawn: listen: ")
	assert.Contains(t, string(out), want)

	s := newSpawner(t, forkspawn.Config{Listen: nettest.Addr(t, "tls://127.0.0.1:0")})
	boot := spawnError(t, testkit.Context(t), s, forkspawn.Command{Path: program},
		spawnspec.Spec{Name: "plain"})
	assert.Equal(t, handshake.PhaseConnect, boot.Phase)
	assert.Equal(t, forkspawn.ExitedStatus(3), boot.Status)
	assert.Contains(t, boot.Stderr, want)
}

// The start of each child costs more with each linked package; see
// docs/design/026-tls-is-linked-on-import.md.
func TestTLS_IsNotLinkedUnasked(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps",
		"github.com/spawnwire/spawnwire/forkspawn").Output()
	require.NoError(t, err)
	for _, pkg := range strings.Fields(string(out)) {
		assert.NotContains(t, []string{"crypto/tls", "crypto/x509", "net/http", "encoding/gob",
			"text/template"}, pkg)
	}
	require.Contains(t, strings.Fields(string(out)), "github.com/spawnwire/spawnwire/transport")
}
