//go:build unix

package roles

import (
	"context"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/transport"
	"github.com/spawnwire/spawnwire/transport/tls"
)

// Entries are the functions that a child of the test binary can run, by name.
var Entries = map[string]forkspawn.Run{
	"calls-goexit":         callsGoexit,
	"computes":             computes,
	"confines-itself":      confinesItself,
	"counts-interrupts":    countsInterrupts,
	"echo":                 echo,
	"exits":                exits,
	"fails":                fails,
	"floods-output":        floodsOutput,
	"ignores-everything":   ignoresEverything,
	"ignores-requests":     ignoresRequests,
	"keeps-spares":         keepsSpares,
	"leaves-member":        leavesMember,
	"leaves-daemon":        leavesDaemon,
	"logs":                 logs,
	"panics":               panics,
	"prints":               prints,
	"reads-files":          readsFiles,
	"reports-descriptors":  reportsDescriptors,
	"reports-environment":  reportsEnvironment,
	"reports-spec":         reportsSpec,
	"runs-root":            runsRoot,
	"serves-http":          servesHTTP,
	"spawns-echo":          spawnsEcho,
	"spawns-leaf":          spawnsLeaf,
	"spawns-survivor":      spawnsSurvivor,
	"starts-starved":       startsStarved,
	"stops-a-deaf-child":   stopsADeafChild,
	"takes-channel":        takesChannel,
	"tree-node":            treeNode,
	"uses-files":           usesFiles,
	"waits":                waits,
	"waits-for-disconnect": waitsForDisconnect,
}

// Programs are the processes without an entry, by name. RoleCommand of
// package testkit starts one.
var Programs = map[string]testkit.Role{
	"attacks":                  attacks,
	"closes-after-ready":       closesAfterReady,
	"connects-silently":        connectsSilently,
	"dies-after-ready":         diesAfterReady,
	"dies-after-spec":          diesAfterSpec,
	"dies-near-ready":          diesNearReady,
	"exits-3":                  exits3,
	"exits-with-its-child":     exitsWithItsChild,
	"fails-in-prepare":         failsInPrepare,
	"forgets-init":             forgetsInit,
	"ignores-sigchld":          ignoresSIGCHLD,
	"is-root":                  isRoot,
	"joins":                    joins,
	"joins-and-logs":           joinsAndLogs,
	"kills-itself":             killsItself,
	"leaves-grandchild":        leavesGrandchild,
	"listens":                  listens,
	"needs-terminal":           needsTerminal,
	"never-connects":           neverConnects,
	"never-ready":              neverReady,
	"one-at-a-time":            oneAtATime,
	"outlives-parent":          outlivesParent,
	"outlives-stderr":          outlivesStderr,
	"prepares-spawner":         preparesSpawner,
	"runs-job":                 runsJob,
	"runs-program":             runsProgram,
	"runs-service":             runsService,
	"sends-garbage":            sendsGarbage,
	"shell":                    shell,
	"speaks-version-7":         speaksVersion7,
	"spawns-itself":            spawnsItself,
	"starts-processes":         startsProcesses,
	"waits-a-moment":           waitsAMoment,
	"writes-and-fails-prepare": writesAndFailsPrepare,
	"wrong-secret":             wrongSecret,
}

// Register registers all Entries. It is called in TestMain, before Init.
func Register() {
	for name, run := range Entries {
		forkspawn.Register(name, run)
	}
	forkspawn.RegisterReadyLater("prepares", prepares)
	forkspawn.RegisterReadyLater("logs-first", logsFirst)
}

// dial takes the ticket and connects to the parent.
func dial(ctx context.Context) (net.Conn, handshake.Ticket, error) {
	ticket, ok, err := handshake.TakeTicket()
	if err != nil || !ok {
		return nil, ticket, fmt.Errorf("no ticket: %w", err)
	}
	if ticket.Addr.Scheme == transport.SchemeTLS {
		conn, err := tls.Transport{}.Dial(ctx, ticket.Addr)
		return conn, ticket, err
	}
	conn, err := new(net.Dialer).DialContext(ctx, ticket.Addr.Network(), ticket.Addr.Target)
	return conn, ticket, err
}

// join connects to the parent and receives the spec. It does not send ready.
func join(ctx context.Context) (net.Conn, *handshake.Joined, error) {
	conn, ticket, err := dial(ctx)
	if err != nil {
		return nil, nil, err
	}
	joined, err := handshake.Join(ctx, conn, ticket, handshake.JoinConfig{})
	return conn, joined, err
}

// forever blocks until another process ends this one.
func forever() {
	for {
		time.Sleep(time.Hour)
	}
}

// Command returns a command that starts the test binary as one of Programs.
func Command(name string, args ...string) forkspawn.Command {
	exe, err := os.Executable()
	if err != nil {
		panic(err)
	}
	return forkspawn.Command{Path: exe, Args: args,
		Env: append(os.Environ(), testkit.RoleEnv+"="+name)}
}
