// Peers compares this library with similar libraries and with floors. Each does
// the same work between two processes, and all take turns. Peers prints Markdown
// tables and can write plots and the results as JSON:
//
//	go -C bench/peers run . -plots /tmp/plots -json /tmp/peers.json
//
// README.md explains the columns and how to add a peer.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spawnwire/spawnwire/bench/peers/growth"
	"github.com/spawnwire/spawnwire/bench/peers/measure"
	"github.com/spawnwire/spawnwire/bench/peers/peer"
	"github.com/spawnwire/spawnwire/bench/peers/report"
	"github.com/spawnwire/spawnwire/bench/peers/spawn"
)

// settings are the values of the flags.
type settings struct {
	rounds   int
	turn     time.Duration
	spawns   int
	messages int // of the longest stream in section growth
	large    int // bytes of the large messages in section calls
	only     string
	peers    string
	plots    string
	json     string
	from     string
}

// sections are the parts of a run, in order.
var sections = []string{"trips", "streams", "senders", "calls", "tcp", "spawn", "growth"}

func main() {
	peer.Init()

	s := settings{large: peer.MaxLarge}
	flag.IntVar(&s.rounds, "rounds", 100,
		"rounds of each job; more for short round trips, fewer for many senders")
	flag.DurationVar(&s.turn, "turn", 5*time.Millisecond,
		"approximate length of a turn; shorter for short round trips, longer for many senders")
	flag.IntVar(&s.spawns, "spawns", 150, "children of each competitor")
	flag.IntVar(&s.messages, "messages", 10_000_000,
		"messages of the longest stream in section growth")
	flag.StringVar(&s.only, "only", strings.Join(sections, ","),
		"comma-separated sections to measure")
	flag.StringVar(&s.peers, "peers", "",
		"comma-separated prefixes of names: measure only these competitors and the floor")
	flag.StringVar(&s.plots, "plots", "", "write plots as SVG into this `directory`")
	flag.StringVar(&s.json, "json", "", "write the results into this `file`")
	flag.StringVar(&s.from, "from", "",
		"do not measure: read the results from this `file`, which -json has written")
	quick := flag.Bool("quick", false, "a short run: -rounds 16 -spawns 15 -messages 100000")
	flag.Parse()
	if *quick {
		s.rounds, s.spawns, s.messages = 16, 15, 100_000
	}
	if err := s.check(); err != nil {
		fmt.Fprintln(os.Stderr, "peers:", err)
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := s.run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "peers:", err)
		os.Exit(1)
	}
}

func (s *settings) check() error {
	if flag.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flag.Arg(0))
	}
	if s.rounds < 1 || s.turn <= 0 || s.spawns < 1 || s.messages < 10 {
		return errors.New("-rounds and -spawns must be at least 1, " +
			"-messages at least 10, and -turn positive")
	}
	for _, name := range strings.Split(s.only, ",") {
		if !slices.Contains(sections, name) {
			return fmt.Errorf("-only %q: want %s", name, strings.Join(sections, ", "))
		}
	}
	if len(s.competitors()) < 2 {
		return fmt.Errorf("-peers %q: no name has such a prefix", s.peers)
	}
	return nil
}

// competitors returns the competitors selected by -peers, and the floor.
func (s *settings) competitors() []peer.Peer {
	return slices.DeleteFunc(peer.All(), func(p peer.Peer) bool {
		return p.Name() != peer.Floor &&
			!slices.ContainsFunc(strings.Split(s.peers, ","), func(name string) bool {
				return strings.HasPrefix(p.Name(), name)
			})
	})
}

func (s *settings) run(ctx context.Context) error {
	r, err := s.results(ctx)
	if err != nil {
		return err
	}
	if s.json != "" {
		if err := r.Write(s.json); err != nil {
			return err
		}
	}
	if s.plots != "" {
		if err := r.Plots(s.plots); err != nil {
			return err
		}
	}
	if err := r.Markdown(os.Stdout); err != nil {
		return err
	}
	if failed := r.Failed(); len(failed) > 0 {
		return errors.New("failed: " + strings.Join(failed, "; "))
	}
	return nil
}

func (s *settings) results(ctx context.Context) (*report.Results, error) {
	if s.from != "" {
		return report.Read(s.from)
	}
	dir, err := os.MkdirTemp("", "peers-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	r := &report.Results{Machine: report.ThisMachine(), Rounds: s.rounds, Turn: s.turn,
		Spawns: s.spawns}
	if err := peer.CompileC(ctx, dir); err != nil {
		r.Notes = append(r.Notes, fmt.Sprintf("Without the floor in C: %v.", err))
	}
	p := newProgress()
	defer p.end()
	if s.has("spawn") {
		if err := spawn.Build(ctx, dir, p.say); err != nil { // fail now, and not after minutes
			return nil, err
		}
	}
	opt := measure.Options{Rounds: s.rounds, Turn: s.turn, Progress: p.say}
	for _, job := range s.jobs() {
		table, err := measure.Job(ctx, s.competitors(), job, opt.For(job))
		if err != nil {
			return nil, err
		}
		r.Tables = append(r.Tables, table)
	}
	// The other sections are measured even if one fails.
	failed := func(section string, err error) {
		if err != nil {
			r.Errors = append(r.Errors, section+": "+err.Error())
		}
	}
	if s.has("spawn") {
		r.Spawn, err = spawn.Measure(ctx, dir, s.spawns, p.say)
		failed("spawn", err)
	}
	if s.has("growth") {
		few := opt
		few.Rounds = max(1, s.rounds/4) // because there are many counts
		r.Channels, err = growth.Channels(ctx, []int{1, 3, 10, 30, 100, 300, 1000}, few)
		failed("growth", err)
		var counts []int
		for n := 10; n <= s.messages; n *= 10 {
			counts = append(counts, n)
		}
		r.Messages, err = growth.Messages(ctx, counts, p.say)
		failed("growth", err)
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	r.Machine.LoadEnd = report.Load()
	return r, nil
}

func (s *settings) has(section string) bool {
	return slices.Contains(strings.Split(s.only, ","), section)
}

// jobs returns the jobs of the selected sections.
func (s *settings) jobs() []peer.Job {
	trips := []int{32, 1 << 10, 64 << 10, 1 << 20}
	streams := []int{64, 1 << 10, 64 << 10}
	var jobs []peer.Job
	add := func(work peer.Work, network string, sizes ...int) {
		for _, size := range sizes {
			job := peer.Job{Work: work, Network: network, Size: size}
			if work == peer.Beside {
				job.Large = s.large
			}
			if !slices.Contains(jobs, job) {
				jobs = append(jobs, job)
			}
		}
	}
	if s.has("trips") {
		add(peer.RoundTrip, "unix", trips...)
	}
	if s.has("streams") {
		add(peer.Stream, "unix", streams...)
	}
	if s.has("senders") {
		add(peer.Senders, "unix", 64)
	}
	if s.has("calls") {
		// The targets for calls refer to these, so they are measured in any case.
		add(peer.RoundTrip, "unix", 32, 1<<10)
		add(peer.Stream, "unix", 64)
		add(peer.Callers, "unix", 64, 1<<10)
		add(peer.Beside, "unix", 32)
		add(peer.Unread, "unix", 64)
		add(peer.Cancel, "unix", 32)
	}
	if s.has("tcp") {
		add(peer.RoundTrip, "tcp", trips...)
		add(peer.Stream, "tcp", streams...)
		add(peer.Senders, "tcp", 64)
	}
	return jobs
}

// progress writes the current step to stderr.
type progress struct {
	began    time.Time
	terminal bool
	last     time.Time
	width    int
}

func newProgress() *progress {
	info, err := os.Stderr.Stat()
	return &progress{began: time.Now(), terminal: err == nil && info.Mode()&os.ModeCharDevice != 0}
}

// say overwrites the last line on a terminal. Elsewhere it writes a new line
// every five seconds.
func (p *progress) say(step string) {
	pause := 5 * time.Second
	if p.terminal {
		pause = 100 * time.Millisecond
	}
	now := time.Now()
	if now.Sub(p.last) < pause {
		return
	}
	p.last = now
	line := fmt.Sprintf("%4.0f s  %s", now.Sub(p.began).Seconds(), step)
	if !p.terminal {
		fmt.Fprintln(os.Stderr, line)
		return
	}
	fmt.Fprintf(os.Stderr, "\r%-*s", p.width, line)
	p.width = len(line)
}

func (p *progress) end() {
	if p.terminal {
		fmt.Fprintf(os.Stderr, "\r%-*s\r", p.width, "")
	}
}
