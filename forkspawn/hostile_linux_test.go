package forkspawn_test

import (
	"bufio"
	"flag"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/internal/testkit/roles"
	"github.com/spawnwire/spawnwire/transport"
)

var attackFor = flag.Duration("attack", 0,
	"how long each attack of TestHostile_Clients takes, and is compared with; 0 is a moment, with no comparison")

// hostile are the attacks. Some send a hello, made from the ticket of a child
// that the Spawner expects or has expected.
var hostile = []struct {
	name string
	how  string
	// makes the ticket of the hello; nil: no hello
	hello func(mine, other handshake.Ticket) handshake.Ticket
	// the ticket's child has joined before
	used bool
	// in the expected child's BootError; nil: any
	refused error
	unix    bool // only on Unix sockets
}{
	{name: "1,000 silent connections", how: "silent"},
	{name: "200 that send a byte per second", how: "drip"},
	{name: "frames announced as 4 GiB", how: "huge"},
	{name: "a valid hello, replayed", how: "hello", used: true,
		hello: func(mine, _ handshake.Ticket) handshake.Ticket { return mine }},
	{name: "the right id with a wrong secret", how: "hello", refused: handshake.ErrBadMAC,
		hello: func(mine, _ handshake.Ticket) handshake.Ticket {
			return withSecretOf(mine, wrongTicket)
		}},
	{name: "the hello of another child", how: "hello", refused: handshake.ErrBadMAC,
		hello: func(mine, other handshake.Ticket) handshake.Ticket {
			return withSecretOf(mine, other.Encode())
		}},
	{name: "a valid hello from another process", how: "hello",
		refused: handshake.ErrForeignProcess, unix: true,
		hello: func(mine, _ handshake.Ticket) handshake.Ticket { return mine }},
	{name: "10,000 connects a second", how: "flood"},
	{name: "100 descriptors with each byte", how: "descriptors", unix: true},
	{name: "half-open and reset connections", how: "half"},
	{name: "junk without end", how: "junk"},
}

// TestHostile_Clients attacks a live Spawner while it spawns. It fails if a child
// cannot join, if an attacker can, or if memory, descriptors or log lines grow
// without bound. It never judges a time. For the table in docs/threat-model.md:
//
//	SPAWNWIRE_LONG=1 go test -v -count=1 -timeout 30m \
//		-run 'TestHostile_Clients$' ./forkspawn -attack 10s
//
// "Beside" is the time of a spawn while the same attacker attacks another
// process. The difference to "under" is what the Spawner itself spends.
func TestHostile_Clients(t *testing.T) {
	spawntest.NoLeaks(t)
	var table strings.Builder
	fmt.Fprintf(&table, "%-36s %-4s %9s  %13s %13s %13s  %9s %9s %5s\n", "attack", "over",
		"connect/s", "quiet p50/p99", "beside", "under", "heap KiB", "RSS KiB", "lines")
	networks(t, func(t *testing.T, listen transport.Addr) {
		for _, h := range hostile {
			scheme := listen.Scheme
			if listen.IsZero() {
				scheme = transport.SchemeUDS
			}
			if h.unix && scheme != transport.SchemeUDS || h.hello != nil &&
				scheme == transport.SchemeTLS {
				continue // the attacker does not speak TLS
			}
			t.Run(h.name, func(t *testing.T) {
				if h.hello == nil {
					testkit.Long(t) // a flood
				}
				target := newTarget(t, listen)
				a := roles.Attack{How: h.how,
					For: max(*attackFor, 200*time.Millisecond), Addr: target.s.Addr()}
				if h.hello != nil {
					mine, other := target.expectChild(t), target.expectChild(t)
					a.Say = helloOf(t, h.hello(mine.ticket, other.ticket))
					if h.used {
						mine.join(t)
					}
					defer func() {
						for _, x := range []*expectedChild{mine, other} {
							err := x.end(t)
							if x == mine && h.refused != nil {
								assert.ErrorIs(t, err, h.refused)
							}
						}
					}()
				}
				var quiet, beside spawnTimes
				if *attackFor > 0 {
					quiet = target.spawnFor(t, *attackFor)
					bystander := startHelper(t, "listens", roles.ListenEnv+"="+listen.String())
					line, err := bufio.NewReader(bystander.stdout).ReadString('\n')
					require.NoError(t, err)
					unrelated := a
					require.NoError(t,
						unrelated.Addr.UnmarshalText([]byte(strings.TrimSpace(line))))
					attacker := startAttack(t, unrelated)
					beside = target.spawnFor(t, *attackFor)
					attacker.damage(t)
					bystander.stop(t)
				}

				before := measure(t)
				watch := watchFigures(t)
				attacker := startAttack(t, a)
				began := time.Now()
				under := target.spawnFor(t, a.For)
				took := time.Since(began)
				done := attacker.damage(t)
				peak := watch()
				var after figures
				testkit.Eventually(t, "the attacker's memory is free again", func() bool {
					after = measure(t)
					return after.heap-before.heap < 16<<20
				})

				assert.Positive(t, done.Connects)
				assert.Less(t, peak.resident-before.resident, int64(256<<20),
					"memory under the attack")
				pending := 1024 // the default of Config.MaxPending
				if h.how == "descriptors" {
					pending = 100 // connections; each byte brings 100 descriptors
				}
				assert.Less(t, peak.descriptors-before.descriptors, pending+100,
					"one for each connection, and the descriptors of a spawn")
				assert.LessOrEqual(t, int(target.lines.Load()),
					12*(1+int(took/(10*time.Second))+1), "lines in the log")
				fmt.Fprintf(&table, "%-36s %-4s %9.0f  %13s %13s %13s  %9d %9d %5d\n", h.name,
					scheme, float64(done.Connects)/took.Seconds(),
					quiet, beside, under, (after.heap-before.heap)>>10,
					(peak.resident-before.resident)>>10, target.lines.Load())
			})
		}
	})
	t.Logf("spawn to ready in ms, on %d CPUs; heap: growth after the attack; RSS: largest growth during it\n%s", runtime.NumCPU(), &table)
}
