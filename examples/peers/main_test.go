//go:build unix

package peers_test

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/examples/peers"
	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/internal/unixsock"
	"github.com/spawnwire/spawnwire/transport"
	"github.com/spawnwire/spawnwire/transport/tcp"
	_ "github.com/spawnwire/spawnwire/transport/tls"
	"github.com/spawnwire/spawnwire/transport/uds"
)

func TestMain(m *testing.M) { spawntest.Main(m) }

// If requiredEnv is set to "required", a missing language fails the test instead
// of skipping it.
const requiredEnv = "SPAWNWIRE_PEERS"

// bound is generous because it only has to find hangs.
const bound = 5 * time.Minute

// language has the scripts in one language.
type language struct {
	name string
	// arguments of the interpreter, ending with the script
	child, peer, tests, callTests []string
	find                          func() (string, error)
}

var python = language{
	name: "python", child: []string{"-B", "python/child.py"},
	peer: []string{"-B", "python/peer.py"}, tests: []string{"-B", "python/test_vectors.py"},
	callTests: []string{"-B", "python/test_calls.py"},
	find: sync.OnceValues(func() (string, error) {
		return peers.Python(context.Background(), "")
	}),
}

var node = language{
	name: "node", child: []string{"node/child.mjs"}, peer: []string{"node/peer.mjs"},
	tests:     []string{"--test", "node/vectors.test.mjs"},
	callTests: []string{"--test", "node/calls.test.mjs"},
	find: sync.OnceValues(func() (string, error) {
		return peers.Node(context.Background(), "node", "")
	}),
}

// inEach runs a test in each installed language.
func inEach(t *testing.T, test func(t *testing.T, l language)) {
	for _, l := range []language{python, node} {
		t.Run(l.name, func(t *testing.T) {
			l.need(t)
			test(t, l)
		})
	}
}

// need skips the test if the language is missing.
func (l language) need(t testing.TB) {
	t.Helper()
	_, err := l.find()
	if err != nil && os.Getenv(requiredEnv) != "required" {
		t.Skipf("%v\n(with %s=required this is a failure)", err, requiredEnv)
	}
	require.NoError(t, err)
}

// command returns the command that runs a script of the language.
func (l language) command(t testing.TB, script []string, args ...string) forkspawn.Command {
	t.Helper()
	path, err := l.find()
	require.NoError(t, err)
	script = slices.Clone(script)
	last := len(script) - 1
	script[last], err = filepath.Abs(script[last])
	require.NoError(t, err)
	return forkspawn.Command{Path: path, Args: append(script, args...)}
}

// program is a process without a Spawner.
type program struct {
	*exec.Cmd
	stdout, stderr *output
}

// start starts a script. If it still runs when the test ends, it is killed.
func (l language) start(t testing.TB, env []string, script []string, args ...string) *program {
	t.Helper()
	command := l.command(t, script, args...)
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	p := &program{exec.CommandContext(ctx, command.Path, command.Args...), new(output), new(output)}
	p.Env, p.Stdout, p.Stderr = append(os.Environ(), env...), p.stdout, p.stderr
	require.NoError(t, p.Start())
	t.Cleanup(func() {
		cancel()
		p.Wait()
	})
	return p
}

// end waits until the program exits and returns its exit code.
func (p *program) end(t testing.TB) int {
	t.Helper()
	var exit *exec.ExitError
	if err := p.Wait(); err != nil {
		require.True(t, errors.As(err, &exit), "%v", err)
	}
	return p.ProcessState.ExitCode()
}

// output collects the output of a program.
type output struct{ testkit.Output }

// after waits for a line with this prefix and returns the rest of the line.
func (o *output) after(t testing.TB, prefix string) (rest string) {
	t.Helper()
	spawntest.Eventually(t, "a line "+prefix, func() bool {
		for line := range strings.Lines(o.String()) {
			var ok bool
			if rest, ok = strings.CutPrefix(line, prefix); ok && strings.HasSuffix(line, "\n") {
				rest = strings.TrimSpace(rest)
				return true
			}
		}
		return false
	})
	return rest
}

// overEach runs a test for each transport, with an address to listen on.
func (l language) overEach(t *testing.T, test func(t *testing.T, addr transport.Addr)) {
	t.Run("uds", func(t *testing.T) {
		dir, err := unixsock.NewDir()
		require.NoError(t, err)
		t.Cleanup(func() { dir.Remove() })
		test(t, transport.Addr{Scheme: transport.SchemeUDS, Target: dir.Socket("s")})
	})
	t.Run("abstract", func(t *testing.T) {
		if l.name == "node" {
			needAbstractNames(t)
		}
		test(t, transport.Addr{Scheme: transport.SchemeUDS,
			Target: "@spawnwire-" + handshake.NewID()})
	})
	t.Run("tcp", func(t *testing.T) {
		test(t, transport.Addr{Scheme: transport.SchemeTCP, Target: "127.0.0.1:0"})
	})
}

// childOverEach is overEach with TLS in addition. Over TLS the children pin the
// certificate of the Spawner.
func (l language) childOverEach(t *testing.T, test func(t *testing.T, addr transport.Addr)) {
	l.overEach(t, test)
	t.Run("tls", func(t *testing.T) {
		test(t, transport.Addr{Scheme: transport.SchemeTLS, Target: "127.0.0.1:0"})
	})
}

// needAbstractNames skips the test if this Node.js cannot connect to abstract
// names. In that case it must report so.
func needAbstractNames(t testing.TB) {
	t.Helper()
	p := node.start(t,
		[]string{handshake.TicketEnv + "=1 x " + strings.Repeat("00", 32) +
			" uds://@spawnwire-nobody"}, node.child)
	assert.Equal(t, 1, p.end(t))
	if strings.Contains(p.stderr.String(), "libuv") {
		t.Skip(p.stderr.String())
	}
}

func listen(t testing.TB, addr transport.Addr) net.Listener {
	t.Helper()
	var tr transport.Network = uds.Transport{}
	if addr.Scheme == transport.SchemeTCP {
		tr = tcp.Transport{}
	}
	ln, err := tr.Listen(t.Context(), addr)
	require.NoError(t, err)
	return ln
}

func dial(t testing.TB, addr transport.Addr) net.Conn {
	t.Helper()
	var tr transport.Network = uds.Transport{}
	if addr.Scheme == transport.SchemeTCP {
		tr = tcp.Transport{}
	}
	conn, err := tr.Dial(t.Context(), addr)
	require.NoError(t, err)
	return conn
}
