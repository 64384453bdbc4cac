// Package spawn measures the time until a child is ready, for this library and for
// the peers that start processes. Each child is a static program with only the
// code that it needs. Build builds them before the measurement.
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

// Phases are the parts of a start, in order. If a competitor does not report a
// phase, its time is in the next one.
type Phases struct {
	Start   time.Duration // from the call until the process exists; not reported by go-plugin
	Runtime time.Duration // until the child's main: exec, the Go runtime, package inits
	// until parent and child are connected; for go-plugin, until Client has returned
	Connect time.Duration
	Ready   time.Duration // until the parent has the first answer of the child
}

// PhaseNames are the names of the phases in tables and plots.
var PhaseNames = []string{"start", "runtime and inits", "connect", "spec and ready"}

// Row has the results of one competitor.
type Row struct {
	Name  string `json:"name"`
	Error string `json:"error,omitempty"`
	// Total is the time from the call until the child is ready, in µs. Ratio is
	// Total divided by the floor's Total in the same round.
	Total stats.Spread `json:"total_us"`
	Ratio stats.Spread `json:"ratio"`
	// Phases are means in µs, in the order of PhaseNames.
	Phases []float64 `json:"phases_us"`
}

// starter is a competitor.
type starter struct {
	name string
	// start starts a child, waits until it is ready, and stops it. The phases do
	// not include the stop.
	start func(ctx context.Context) (Phases, error)
	close func() error

	total  []float64
	phases [4]float64
	err    error
}

// Build builds the children into dir. The working directory must be in this module.
func Build(ctx context.Context, dir string, progress func(string)) error {
	for _, child := range []string{"floor", "spawnwire", "goplugin"} {
		progress("spawn: building a static child, " + child)
		if err := build(ctx, dir, child); err != nil {
			return err
		}
	}
	return nil
}

// Measure starts n children of each competitor, in turns, after a tenth as many
// unmeasured ones. Build must have built them into dir.
func Measure(ctx context.Context, dir string, n int, progress func(string)) ([]Row, error) {
	f, err := newFloor(dir)
	if err != nil {
		return nil, err
	}
	all := []*starter{
		{name: "os/exec", start: f.start, close: f.close},
		newSpawnwire(dir, "spawnwire", transport.Addr{}),
		newSpawnwire(dir, "spawnwire, tcp",
			transport.Addr{Scheme: transport.SchemeTCP, Target: "127.0.0.1:0"}),
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
			// The ratios are empty if the floor has failed.
			if ratios := stats.Ratios(s.total, all[0].total); len(ratios) > 0 {
				row.Ratio = stats.SpreadOf(ratios)
			}
			for _, sum := range s.phases {
				row.Phases = append(row.Phases, sum/float64(n))
			}
		}
		rows = append(rows, row)
	}
	for i, s := range all { // after all ratios, because it sorts the rounds
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

// build builds a static child.
func build(ctx context.Context, dir, child string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-o", filepath.Join(dir, child),
		"github.com/spawnwire/spawnwire/bench/peers/spawn/children/"+child)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build of the child %s (run this in bench/peers): %w: %s", child, err,
			out)
	}
	return nil
}

// floor starts children with plain os/exec. The child connects and writes eight
// bytes.
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

// phases returns the times between the moments. If a moment was recorded too late,
// because another thread used the processor, the parts still add up to the total.
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

// newSpawnwire returns the starter of this library, with one Spawner for all
// children.
func newSpawnwire(dir, name string, listen transport.Addr) *starter {
	sp, err := forkspawn.New(forkspawn.Config{Listen: listen,
		Command: forkspawn.Command{Path: filepath.Join(dir, "spawnwire")}})
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

// newPlugin returns the starter of go-plugin in one of its modes, as in its
// documentation, without log and TLS.
func newPlugin(dir, mode string) *starter {
	start := func(ctx context.Context) (Phases, error) {
		began := time.Now()
		end, _ := ctx.Deadline()
		client := plugin.NewClient(&plugin.ClientConfig{
			HandshakeConfig: plugged.Handshake, Plugins: plugged.Plugins(mode, time.Time{}),
			StartTimeout:     time.Until(end),
			Cmd:              exec.Command(filepath.Join(dir, "goplugin"), mode),
			Logger:           hclog.NewNullLogger(),
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
