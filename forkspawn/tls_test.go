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
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
	"github.com/spawnwire/spawnwire/transport/tls"
)

func mustAddr(t testing.TB, s string) transport.Addr {
	t.Helper()
	addr, err := transport.ParseAddr(s)
	require.NoError(t, err)
	return addr
}

// readdressed starts the role "join" by a wrapper that changes the address in its ticket, in shell's words.
func readdressed(address string) forkspawn.Command {
	cmd := role("join")
	cmd.Args = []string{"-c", `T=$SPAWNWIRE_TICKET; export SPAWNWIRE_TICKET="${T% *} ` + address + `"; exec ` + cmd.Path}
	cmd.Path = "sh"
	return cmd
}

// requireEchoes checks that a child with the role "join" answers.
func requireEchoes(t testing.TB, c *forkspawn.Child, v any) {
	t.Helper()
	require.NoError(t, c.Send(testContext(t), v))
	var got any
	require.NoError(t, c.Recv(testContext(t), &got))
	require.EqualValues(t, v, got)
}

func TestAChildThatFindsAnotherCertificateSaysSo(t *testing.T) {
	s := newSpawner(t, forkspawn.Config{Listen: mustAddr(t, "tls://127.0.0.1:0")})
	for name, c := range map[string]struct {
		address string
		says    []string
	}{
		"another pin": {"`echo ${T##* } | cut -d# -f1`#`echo ${T##*#} | tr 0-9a-f 1-9a-f0`", []string{"the listener has another certificate than the one that is pinned"}},
		"no pin":      {"`echo ${T##* } | cut -d# -f1`", []string{handshake.TicketEnv, "pins no certificate"}},
	} {
		t.Run(name, func(t *testing.T) {
			boot := spawnError(t, testContext(t), s, readdressed(c.address), spawnspec.Spec{Name: "careful"})
			assert.Equal(t, handshake.PhaseConnect, boot.Phase)
			assert.Equal(t, forkspawn.Exited(1), boot.Status)
			for _, words := range c.says {
				assert.Contains(t, boot.Error(), words)
			}
		})
	}
	t.Run("and the right one is served all the same", func(t *testing.T) {
		c, err := s.SpawnCommand(testContext(t), role("join"), spawnspec.Spec{Name: "right"})
		require.NoError(t, err)
		requireEchoes(t, c, "hello")
	})
}

// forward accepts connections, opens one to another address for each, and copies both ways. It counts them.
func forward(t testing.TB, accept func() (net.Conn, error), dial func() (net.Conn, error)) *atomic.Int32 {
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

func TestSomebodyInTheMiddleIsFoundOutByTheChild(t *testing.T) {
	s := newSpawner(t, forkspawn.Config{Listen: mustAddr(t, "tls://127.0.0.1:0")})
	proxy, err := tls.Transport{}.Listen(testContext(t), mustAddr(t, "tls://127.0.0.1:0"))
	require.NoError(t, err)
	defer proxy.Close()
	seen := forward(t, proxy.Accept, func() (net.Conn, error) { return tls.Transport{}.Dial(testContext(t), s.Addr()) })
	target := transport.AddrOf(proxy.Addr()).Target
	boot := spawnError(t, testContext(t), s, readdressed("tls://"+target+"#${T##*#}"), spawnspec.Spec{Name: "victim"})
	assert.Equal(t, handshake.PhaseConnect, boot.Phase)
	assert.Contains(t, boot.Error(), target+": the listener has another certificate than the one that is pinned")
	assert.EqualValues(t, 1, seen.Load())
}

func TestAdvertiseIsWhereChildrenConnect(t *testing.T) {
	for _, scheme := range []string{"tls", "tcp"} {
		t.Run(scheme, func(t *testing.T) {
			gate, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			defer gate.Close()
			s := newSpawner(t, forkspawn.Config{
				Listen: mustAddr(t, scheme+"://127.0.0.1:0"), Advertise: mustAddr(t, scheme+"://"+gate.Addr().String()),
			})
			assert.Equal(t, gate.Addr().String(), s.Addr().Target)
			assert.Equal(t, scheme == "tls", s.Addr().IsPinned())
			seen := forward(t, gate.Accept, func() (net.Conn, error) { return nil, errors.New("closed today") })
			boot := spawnError(t, testContext(t), s, forkspawn.Command{}, spawnspec.Spec{Name: "echo", Entry: "echo"})
			assert.Equal(t, handshake.PhaseConnect, boot.Phase)
			assert.Positive(t, seen.Load())
		})
	}
}

// A port that is forwarded, as ssh -R does, is not somebody in the middle.
func TestAForwardedPortServesMessagesAndControl(t *testing.T) {
	gate, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer gate.Close()
	s := newSpawner(t, forkspawn.Config{Listen: mustAddr(t, "tls://127.0.0.1:0"), StopGrace: bound})
	seen := forward(t, gate.Accept, func() (net.Conn, error) { return net.Dial("tcp", s.Addr().Target) })
	c, err := s.SpawnCommand(testContext(t), readdressed("tls://"+gate.Addr().String()+"#${T##*#}"), spawnspec.Spec{Name: "beyond"})
	require.NoError(t, err)
	requireEchoes(t, c, strings.Repeat("large ", 1<<18))
	eventually(t, "the control connection is there", func() bool { return seen.Load() == 2 })
	result, err := c.Stop(testContext(t))
	require.NoError(t, err)
	assert.Equal(t, forkspawn.EndedAsked, result.By, "%v", result)
}

// A parent with too many strangers cuts connections that have not set up TLS: that must not look like its end. But behind a port that is
// forwarded its end looks just like that.
func TestAControlConnectionThatIsCutAtOnceIsMadeAnew(t *testing.T) {
	for _, c := range []struct {
		name  string
		late  bool  // the connection is cut when the parent has accepted it
		cuts  int32 // so many are cut
		dials int32 // so many the child makes
		lives bool
	}{
		{"before TLS is set up", false, 2, 3, true},
		{"before TLS is set up, for ever", false, 1000, 7, false},
		{"later, which is as the end of any control connection", true, 1, 2, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			gate, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			defer gate.Close()
			s := newSpawner(t, forkspawn.Config{Listen: mustAddr(t, "tls://127.0.0.1:0"), StopGrace: bound})
			var count atomic.Int32
			forward(t, gate.Accept, func() (net.Conn, error) {
				n := count.Add(1)
				cut := n > 1 && n <= 1+c.cuts // the first is the message channel
				if cut && !c.late {
					return nil, errors.New("cut")
				}
				conn, err := net.Dial("tcp", s.Addr().Target)
				if cut && err == nil {
					time.AfterFunc(3*time.Second, func() { conn.Close() }) // which nothing tells; the case beside it takes as long
				}
				return conn, err
			})
			child, err := s.SpawnCommand(testContext(t), readdressed("tls://"+gate.Addr().String()+"#${T##*#}"), spawnspec.Spec{Name: "cut"})
			require.NoError(t, err)
			if !c.lives {
				eventually(t, "the child ends", func() bool { return !alive(child.PID()) })
				assert.Equal(t, 1+c.dials, count.Load())
				return
			}
			eventually(t, "there is one that is not cut", func() bool { return count.Load() == 1+c.dials })
			requireEchoes(t, child, "hello")
			result, err := child.Stop(testContext(t))
			require.NoError(t, err)
			assert.Equal(t, forkspawn.EndedAsked, result.By, "%v", result)
		})
	}
}

func TestAWildcardNeedsAnAddressToConnectTo(t *testing.T) {
	for _, listen := range []string{"tls://0.0.0.0:0", "tls://[::]:0", "tcp://0.0.0.0:0", "tcp://[::]:0"} {
		t.Run(listen, func(t *testing.T) {
			cfg := forkspawn.Config{Listen: mustAddr(t, listen), AllowUnencryptedTCP: true}
			_, err := forkspawn.New(cfg)
			var bad *forkspawn.ConfigError
			require.ErrorAs(t, err, &bad)
			assert.Equal(t, "Advertise", bad.Field)
			assert.ErrorContains(t, err, listen)

			cfg.Advertise = mustAddr(t, listen[:6]+"127.0.0.1:0")
			s := newSpawner(t, cfg)
			assert.Regexp(t, `^127\.0\.0\.1:[1-9][0-9]*$`, s.Addr().Target, "with the port that the kernel chose")
			c := spawn(t, s, spawnspec.Spec{Entry: "echo"})
			requireEchoes(t, c, "hello")
		})
	}
}

func TestPlainTCPToOtherMachinesIsAllowedByName(t *testing.T) {
	for name, cfg := range map[string]forkspawn.Config{
		"Listen":    {Listen: mustAddr(t, "tcp://0.0.0.0:0"), Advertise: mustAddr(t, "tcp://127.0.0.1:0")},
		"Advertise": {Listen: mustAddr(t, "tcp://127.0.0.1:0"), Advertise: mustAddr(t, "tcp://192.0.2.1:0")},
	} {
		_, err := forkspawn.New(cfg)
		var bad *forkspawn.ConfigError
		require.ErrorAs(t, err, &bad)
		assert.Equal(t, name, bad.Field)
		assert.ErrorContains(t, err, "use tls://, or set AllowUnencryptedTCP")
		cfg.AllowUnencryptedTCP = true
		s := newSpawner(t, cfg)
		require.NoError(t, s.Close())
	}
	_, err := forkspawn.New(forkspawn.Config{Listen: mustAddr(t, "tcp://127.0.0.1:0"), Advertise: mustAddr(t, "tcp://a-name.test:0")})
	assert.ErrorContains(t, err, "AllowUnencryptedTCP", "a name may mean any address where the child is")

	// The child goes where its ticket says: its parent has decided. 0.0.0.0 is this machine to connect(2), and no loopback address.
	s := newSpawner(t, forkspawn.Config{Listen: mustAddr(t, "tcp://127.0.0.1:0")})
	c, err := s.SpawnCommand(testContext(t), readdressed("tcp://0.0.0.0:${T##*:}"), spawnspec.Spec{Name: "far"})
	require.NoError(t, err)
	requireEchoes(t, c, "hello")
}

func TestAdvertiseIsChecked(t *testing.T) {
	for advertise, says := range map[string]string{
		"tcp://127.0.0.1:0":  "both must be tcp, or both tls",
		"uds:///run/x.sock":  "both must be tcp, or both tls",
		"tls://0.0.0.0:7000": "every address, and none to connect to",
		"tls://[::]:7000":    "every address, and none to connect to",
		"tls://127.0.0.1:7000#" + strings.Repeat("1", 64): "leave it out",
	} {
		_, err := forkspawn.New(forkspawn.Config{Listen: mustAddr(t, "tls://127.0.0.1:0"), Advertise: mustAddr(t, advertise)})
		var bad *forkspawn.ConfigError
		require.ErrorAs(t, err, &bad, advertise)
		assert.Equal(t, "Advertise", bad.Field)
		assert.Contains(t, bad.Reason, says)
	}
	_, err := forkspawn.New(forkspawn.Config{Advertise: mustAddr(t, "tcp://127.0.0.1:7000")})
	assert.ErrorContains(t, err, "Advertise", "children connect to a Unix socket")
	_, err = forkspawn.New(forkspawn.Config{Listen: transport.Addr{Scheme: "tls", Target: "127.0.0.1:0", Pin: [32]byte{1}}})
	var addr *transport.AddrError
	assert.ErrorAs(t, err, &addr)
}

// withoutTLS is a program that does not import transport/tls, as parent and as child.
const withoutTLS = `package main

import (
	"context"
	"fmt"
	"os"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/transport"
)

func main() {
	if _, err := forkspawn.Join(context.Background()); err != forkspawn.ErrNotSpawned {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(3)
	}
	_, err := forkspawn.New(forkspawn.Config{Listen: transport.Addr{Scheme: "tls", Target: "127.0.0.1:0"}})
	fmt.Println(err)
}
`

func TestAProgramWithoutTLSNamesTheImport(t *testing.T) {
	program := build(t, t.TempDir(), withoutTLS)
	const want = `this program is built without TLS; add to it: import _ "github.com/spawnwire/spawnwire/transport/tls"`
	out, err := exec.Command(program).Output()
	require.NoError(t, err)
	assert.Contains(t, string(out), "forkspawn: listen: ")
	assert.Contains(t, string(out), want)

	s := newSpawner(t, forkspawn.Config{Listen: mustAddr(t, "tls://127.0.0.1:0")})
	boot := spawnError(t, testContext(t), s, forkspawn.Command{Path: program}, spawnspec.Spec{Name: "plain"})
	assert.Equal(t, handshake.PhaseConnect, boot.Phase)
	assert.Equal(t, forkspawn.Exited(3), boot.Status)
	assert.Contains(t, boot.Stderr, want)
}

// What every child links is paid for at each start: see docs/ARCHITECTURE.md.
func TestNoChildLinksTLSUnasked(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "github.com/spawnwire/spawnwire/forkspawn").Output()
	require.NoError(t, err)
	for _, pkg := range strings.Fields(string(out)) {
		assert.NotContains(t, []string{"crypto/tls", "crypto/x509", "net/http", "encoding/gob", "text/template"}, pkg)
	}
	require.Contains(t, strings.Fields(string(out)), "github.com/spawnwire/spawnwire/transport")
}
