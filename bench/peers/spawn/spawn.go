// Package spawn measures the start of a child until it is ready, of this library and of those peers that start processes.
// Every child is a static program of its own with nothing linked but what it needs, built when the measuring begins.
package spawn

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"

	"github.com/spawnwire/spawnwire/bench/peers/peer"
	"github.com/spawnwire/spawnwire/bench/peers/spawn/plugged"
	"github.com/spawnwire/spawnwire/bench/peers/stats"
	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
)

// Phases are the parts of a start, in order. What a competitor does not tell apart is in the next one.
type Phases struct {
	Start   time.Duration // from the call until the process exists; go-plugin does not tell
	Runtime time.Duration // until the child's main: exec, the Go runtime, package inits
	Connect time.Duration // until parent and child are connected; for go-plugin, until Client has returned
	Ready   time.Duration // until the parent knows that the child has its orders: its first answer
}

// PhaseNames are their names, for tables and plots.
var PhaseNames = []string{"start", "runtime and inits", "connect", "orders and ready"}

// Row has the figures of one competitor.
type Row struct {
	Name  string `json:"name"`
	Error string `json:"error,omitempty"`
	// Total, from the call until the child is ready, in µs, and its ratio to the floor's in the same round.
	Total stats.Spread `json:"total_us"`
	Ratio stats.Spread `json:"ratio"`
	// Phases are means in µs, as PhaseNames.
	Phases []float64 `json:"phases_us"`
}

// starter is a competitor.
type starter struct {
	name string
	// start starts a child, waits until it is ready, and ends it: the end does not count.
	start func(ctx context.Context) (Phases, error)
	close func() error

	total  []float64
	phases [4]float64
	err    error
}

// Build builds the children below dir, with the go command, in a directory of this module.
func Build(ctx context.Context, dir string, progress func(string)) error {
	for _, child := range []string{"floor", "spawnwire", "goplugin"} {
		progress("spawn: building a static child, " + child)
		if err := build(ctx, dir, child); err != nil {
			return err
		}
	}
	return nil
}

// Measure starts n children of each, in turns, and as many as a tenth before that do not count. Build has built them
// below dir.
func Measure(ctx context.Context, dir string, n int, progress func(string)) ([]Row, error) {
	f, err := newFloor(dir)
	if err != nil {
		return nil, err
	}
	all := []*starter{
		{name: "os/exec", start: f.start, close: f.close},
		newSpawnwire(dir, "spawnwire", transport.Addr{}),
		newSpawnwire(dir, "spawnwire, tcp", transport.Addr{Scheme: transport.SchemeTCP, Target: "127.0.0.1:0"}),
		newPlugin(dir, plugged.NetRPC),
		newPlugin(dir, plugged.GRPC),
	}
	defer func() {
		for _, s := range all {
			s.close()
		}
	}()
	for i := -max(1, n/10); i < n; i++ {
		progress(fmt.Sprintf("spawn: round %d of %d", max(i+1, 0), n))
		for j := range all {
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			if s := all[(i+n+j)%len(all)]; s.err == nil {
				s.turn(ctx, i >= 0)
			}
		}
	}
	var rows []Row
	for _, s := range all {
		row := Row{Name: s.name}
		if s.err != nil {
			row.Error = s.err.Error()
		} else {
			if ratios := stats.Ratios(s.total, all[0].total); len(ratios) > 0 { // none if the floor has failed
				row.Ratio = stats.SpreadOf(ratios)
			}
			for _, sum := range s.phases {
				row.Phases = append(row.Phases, sum/float64(n))
			}
		}
		rows = append(rows, row)
	}
	for i, s := range all { // sorts the rounds, so after all ratios
		if s.err == nil {
			rows[i].Total = stats.SpreadOf(s.total)
		}
	}
	return rows, nil
}

func (s *starter) turn(ctx context.Context, counts bool) {
	ctx, cancel := context.WithTimeout(ctx, peer.Patience)
	defer cancel()
	p, err := s.start(ctx)
	if err != nil {
		s.err = err
		return
	}
	if !counts {
		return
	}
	var total time.Duration
	for i, d := range []time.Duration{p.Start, p.Runtime, p.Connect, p.Ready} {
		total += d
		s.phases[i] += micros(d)
	}
	s.total = append(s.total, micros(total))
}

func micros(d time.Duration) float64 { return float64(d) / 1e3 }

// build builds one of the children, static.
func build(ctx context.Context, dir, child string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-o", filepath.Join(dir, child),
		"github.com/spawnwire/spawnwire/bench/peers/spawn/children/"+child)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build of the child %s, which is to be run in bench/peers: %w: %s", child, err, out)
	}
	return nil
}

// floor is plain os/exec: the child connects and writes eight bytes.
type floor struct {
	program string
	ln      *net.UnixListener
}

func newFloor(dir string) (*floor, error) {
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "s")})
	return &floor{filepath.Join(dir, "floor"), ln}, err
}

func (f *floor) close() error { return f.ln.Close() }

func (f *floor) start(ctx context.Context) (p Phases, err error) {
	end, _ := ctx.Deadline()
	if err := f.ln.SetDeadline(end); err != nil {
		return p, err
	}
	began := time.Now()
	cmd := exec.CommandContext(ctx, f.program, f.ln.Addr().String())
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return p, err
	}
	started := time.Now()
	conn, err := f.ln.Accept()
	if err != nil {
		cmd.Process.Kill()
		return p, errors.Join(err, cmd.Wait())
	}
	defer conn.Close()
	accepted := time.Now()
	word := make([]byte, 8)
	_, err = io.ReadFull(conn, word)
	ready := time.Now()
	if err := errors.Join(err, cmd.Wait()); err != nil {
		return p, err
	}
	inMain := time.Unix(0, int64(binary.LittleEndian.Uint64(word)))
	return phases(began, started, inMain, accepted, ready), nil
}

// phases makes the parts of the moments between them. A moment that is seen late, as another thread had the processor,
// takes nothing from the part after it.
func phases(moments ...time.Time) Phases {
	var d [4]time.Duration
	at := moments[0]
	for i, m := range moments[1:] {
		if i < len(d)-1 && m.After(moments[len(moments)-1]) {
			m = moments[len(moments)-1]
		}
		if m.After(at) {
			d[i], at = m.Sub(at), m
		}
	}
	return Phases{d[0], d[1], d[2], d[3]}
}

// newSpawnwire is this library: one Spawner for all children, as its documentation says.
func newSpawnwire(dir, name string, listen transport.Addr) *starter {
	sp, err := forkspawn.New(forkspawn.Config{Listen: listen, Command: forkspawn.Command{Path: filepath.Join(dir, "spawnwire")}})
	if err != nil {
		return &starter{name: name, err: err, close: func() error { return nil }}
	}
	return &starter{name: name, close: sp.Close, start: func(ctx context.Context) (Phases, error) {
		child, err := sp.Spawn(ctx, spawnspec.Spec{Entry: "wait"})
		if err != nil {
			return Phases{}, err
		}
		b := child.Boot()
		_, err = child.Stop(ctx)
		p := Phases{Start: b.Launch, Runtime: b.Runtime + b.Init, Connect: b.Connect}
		p.Ready = b.Total - p.Start - p.Runtime - p.Connect
		return p, err
	}}
}

// newPlugin is go-plugin in one of its modes, as its documentation says, without log and TLS.
func newPlugin(dir, mode string) *starter {
	start := func(ctx context.Context) (Phases, error) {
		began := time.Now()
		end, _ := ctx.Deadline()
		client := plugin.NewClient(&plugin.ClientConfig{
			HandshakeConfig: plugged.Handshake, Plugins: plugged.Plugins(mode, time.Time{}), StartTimeout: time.Until(end),
			Cmd: exec.Command(filepath.Join(dir, "goplugin"), mode), Logger: hclog.NewNullLogger(),
			AllowedProtocols: []plugin.Protocol{plugin.ProtocolNetRPC, plugin.ProtocolGRPC},
		})
		defer client.Kill()
		conn, err := client.Client()
		if err != nil {
			return Phases{}, err
		}
		connected := time.Now()
		clock, err := conn.Dispense(plugged.Name)
		if err != nil {
			return Phases{}, err
		}
		ns, err := clock.(plugged.Clock).Began()
		if err != nil {
			return Phases{}, err
		}
		return phases(began, began, time.Unix(0, ns), connected, time.Now()), nil
	}
	return &starter{name: "go-plugin " + mode, start: start, close: func() error { return nil }}
}
