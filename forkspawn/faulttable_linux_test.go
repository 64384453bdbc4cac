package forkspawn_test

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/forkspawn/spawntest"
	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/internal/monotime"
	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
)

var faultFilter = flag.String("faults", "", "TestFaultTable runs only the cases whose `point/fault/transport` matches this regular expression")

// faultCase is one line of the table.
type faultCase struct {
	point  point
	fault  fault
	net    string // "uds" or "tcp"
	timeUp bool   // the boot timeout ends it, and not the caller
}

func (c faultCase) String() string {
	s := fmt.Sprintf("%s/%s/%s", c.point, c.fault, c.net)
	if c.timeUp {
		s += "/boot timeout"
	}
	return s
}

// wire is what a child's connection is: a forked one has one end of a pair, in place of a Unix socket to dial.
func (c faultCase) wire() string {
	if c.net == "uds" && c.point != atStart && os.Getenv(methodEnv) == forkspawn.MethodForkserver {
		return "pair"
	}
	return c.net
}

// outcome is what a case must come to.
type outcome struct {
	ready ready           // whether Spawn returns a child
	phase handshake.Phase // that the BootError names
	// is, and as if not nil, are in the BootError or, when there is a child, in the error of its next receive.
	is     error
	as     any
	gaveUp bool                 // nothing that the parent can see ends the boot: the caller, or the timeout, does
	status forkspawn.ExitStatus // by itself; unknown when it does not end by itself
	stderr string               // the end of it
	text   string               // in the error's text
	stop   forkspawn.StopResult // when there is a child, and it lives
}

type ready int

const (
	never ready = iota
	always
	either // the one or the other: death and ready meet
)

// What a fault comes to, wherever it happens.
var faultOutcomes = map[fault]outcome{
	exitThree:    {is: forkspawn.ErrDied, status: forkspawn.Exited(3), stderr: lastLine + "\n", text: lastLine},
	exitZero:     {is: forkspawn.ErrDied, status: forkspawn.Exited(0)},
	panics:       {is: forkspawn.ErrDied, status: forkspawn.Exited(2), text: "panic: " + lastLine},
	killed:       {is: forkspawn.ErrDied, status: forkspawn.Killed(syscall.SIGKILL, false)},
	stalls:       {gaveUp: true, stop: onTerm},
	stops:        {gaveUp: true, stop: onTerm}, // SIGCONT goes with it
	deafStalls:   {gaveUp: true, stop: onKill},
	closes:       {is: transport.ErrPeerGone, stop: onTerm},
	garbles:      {is: transport.ErrProtocol, stop: onTerm},
	floods:       {is: forkspawn.ErrDied, status: forkspawn.Exited(3), stderr: "xx\n" + lastLine + "\n", text: lastLine},
	floodsOn:     {ready: always, stderr: "xx\n" + lastLine + "\n", stop: onRequest},
	leavesOutput: {is: forkspawn.ErrDied, status: forkspawn.Exited(3), stderr: lastLine + "\n", text: lastLine},
	leavesSocket: {is: forkspawn.ErrDied, status: forkspawn.Exited(3), stderr: lastLine + "\n", text: lastLine},
	leavesUnruly: {gaveUp: true, stop: onTerm},

	wrongMAC:       {phase: "auth", is: handshake.ErrBadMAC, status: forkspawn.Exited(1), text: "secret"},
	wrongMACStalls: {phase: "auth", is: handshake.ErrBadMAC},
	wrongID:        {phase: "auth", is: handshake.ErrUnknownPeer, status: forkspawn.Exited(1)},
	wrongIDStalls:  {phase: "auth", is: handshake.ErrUnknownPeer},
	wrongVersion:   {phase: "auth", as: new(*handshake.VersionError), status: forkspawn.Exited(1), text: "1 to 1, the peer 7 to 9"},
	wrongVersionSt: {phase: "auth", as: new(*handshake.VersionError), text: "1 to 1, the peer 7 to 9"},
	wrongKind:      {phase: "hello", is: transport.ErrProtocol},
	failsSpec:      {phase: "spec", is: handshake.ErrBadSpec, as: new(*handshake.FailedError), status: forkspawn.Exited(1), text: "half of it"},
	failsReady:     {phase: "ready", as: new(*handshake.FailedError), status: forkspawn.Exited(1), text: "port 80 is taken"},
	failsStalls:    {phase: "ready", as: new(*handshake.FailedError), text: "port 80 is taken"},
}

// What Stop comes to.
var (
	onRequest = forkspawn.StopResult{By: forkspawn.EndedAsked, Status: forkspawn.Exited(0)}
	onTerm    = forkspawn.StopResult{By: forkspawn.EndedTerminated, Status: forkspawn.Killed(syscall.SIGTERM, false)}
	onKill    = forkspawn.StopResult{By: forkspawn.EndedKilled, Status: forkspawn.Killed(syscall.SIGKILL, false)}
)

// The phase that does not complete, by point. Over TCP a parent knows whose connection it is when the hello
// has come and is good; on a Unix socket the kernel tells before.
var phases = map[string]map[point]handshake.Phase{
	"uds": {
		atStart: "connect", atInit: "connect", beforeDial: "connect", afterDial: "hello", midHello: "hello",
		afterHello: "spec", midWelcome: "spec", afterWelcome: "spec", midSpec: "spec", afterSpec: "spec", midReady: "spec",
	},
	"pair": {
		atInit: "connect", beforeDial: "connect", afterDial: "connect", midHello: "connect",
		afterHello: "spec", midWelcome: "spec", afterWelcome: "spec", midSpec: "spec", afterSpec: "spec", midReady: "spec",
	},
	"tcp": {
		atStart: "connect", atInit: "connect", beforeDial: "connect", afterDial: "connect", midHello: "connect",
		afterHello: "spec", midWelcome: "spec", afterWelcome: "spec", midSpec: "spec", afterSpec: "spec", midReady: "spec",
	},
}

// expected returns what a case must come to.
func expected(c faultCase) outcome {
	o := faultOutcomes[c.fault]
	if o.phase == "" {
		o.phase = phases[c.wire()][c.point]
	}
	anonymous := c.net == "tcp" && (c.point == afterDial || c.point == midHello || c.point == inHello)
	switch c.point {
	case atReady, midAttach, atOpen:
		o.ready = always
		if o.status.Known() && c.point != atOpen {
			o.ready = either
			o.phase = "spec"
		}
		if c.point == midAttach && !o.status.Known() {
			o.is = nil // the connection that suffers is not the one on which messages come
		}
	case atStop:
		o.ready, o.is = always, nil
		if o.status.Known() {
			o.stop = forkspawn.StopResult{By: forkspawn.EndedAsked, Status: o.status}
			o.status = forkspawn.ExitStatus{}
		}
	}
	if c.wire() == "pair" && c.fault == garbles && (c.point == afterDial || c.point == midHello) {
		o.phase = "hello" // as there is one now
	}
	switch {
	case anonymous && (c.fault == closes || c.fault == garbles || c.fault == wrongKind || c.fault == wrongIDStalls):
		// Anybody could have sent that.
		o.is, o.phase, o.gaveUp = nil, "connect", true
	case anonymous && c.fault == wrongID:
		o.is, o.phase = forkspawn.ErrDied, "connect"
	case anonymous && c.fault == wrongMACStalls:
		o.gaveUp = true // anybody could have sent that too, but it had the child's id
	}
	return o
}

// faultCases lists every point with every fault over each transport, as far as there can be one.
func faultCases() (list []faultCase) {
	for _, network := range []string{"uds", "tcp"} {
		for _, p := range points {
			for _, f := range faults {
				noSocket := p == atStart || p == atInit || p == beforeDial
				if noSocket && (f == closes || f == garbles || f == leavesSocket) || p == atStart && shellFault(f) == "" {
					continue
				}
				c := faultCase{point: p, fault: f, net: network}
				if c.wire() == "pair" && p == midAttach {
					continue
				}
				list = append(list, c)
			}
		}
		for _, f := range []fault{wrongMAC, wrongMACStalls, wrongID, wrongIDStalls, wrongVersion, wrongVersionSt, wrongKind} {
			list = append(list, faultCase{point: inHello, fault: f, net: network})
		}
		for _, f := range []fault{failsSpec, failsReady, failsStalls} {
			list = append(list, faultCase{point: inAnswer, fault: f, net: network})
		}
		for _, p := range []point{atInit, afterDial, afterHello, midReady} {
			list = append(list, faultCase{point: p, fault: stalls, net: network, timeUp: true})
		}
	}
	return list
}

// faultBench is what the cases share: a Spawner for each network and each way to end its children, so that every
// case is also one beside which others start and fail.
type faultBench struct {
	spawners map[string]*forkspawn.Spawner
	fifo     *os.File

	mu      sync.Mutex // guards tellers
	tellers map[string]chan told
}

// told is what a child tells when it is at its point.
type told struct {
	at         int64 // by package monotime
	grandchild int   // 0 if there is none
}

// The ways to end. Where a step must be taken it has no limit that a slow machine could miss, and where
// it must be passed over it has a short one.
const (
	short       = 50 * time.Millisecond
	bootTimeout = 10 * time.Second // in which a child comes to its point; see also faulty.tell
)

func newFaultBench(t *testing.T) *faultBench {
	b := &faultBench{spawners: map[string]*forkspawn.Spawner{}, tellers: map[string]chan told{}}
	path := filepath.Join(t.TempDir(), "fifo")
	require.NoError(t, syscall.Mkfifo(path, 0o600))
	program, err := os.Executable()
	require.NoError(t, err)
	b.fifo, err = os.OpenFile(path, os.O_RDWR, 0) // with a writer of its own it never comes to its end
	require.NoError(t, err)
	for network, listen := range map[string]transport.Addr{"uds": {}, "tcp": {Scheme: "tcp", Target: "127.0.0.1:0"}} {
		for by, cfg := range map[forkspawn.Ending]forkspawn.Config{
			forkspawn.EndedAsked:      {StopGrace: bound, TermGrace: bound, BootTimeout: 2 * bound},
			forkspawn.EndedTerminated: {StopGrace: short, TermGrace: bound, BootTimeout: 2 * bound},
			forkspawn.EndedKilled:     {StopGrace: short, TermGrace: short, BootTimeout: 2 * bound},
			forkspawn.EndedBefore:     {BootTimeout: bootTimeout},
		} {
			cfg.Listen, cfg.Stdout, cfg.Stderr = listen, forkspawn.Capture(nil), forkspawn.Capture(nil)
			cfg.Method, cfg.Command = os.Getenv(methodEnv), forkspawn.Command{Path: program, Env: append(os.Environ(), faultTemplateEnv+"=1")}
			s, err := forkspawn.New(cfg)
			require.NoError(t, err)
			require.NoError(t, s.Warm(testContext(t)), "its template, where there is one")
			b.spawners[network+string(by)] = s
		}
	}
	go b.listen()
	return b
}

func (b *faultBench) close() error {
	errs := []error{b.fifo.Close()}
	for _, s := range b.spawners {
		errs = append(errs, s.Close())
	}
	return errors.Join(errs...)
}

func (b *faultBench) listen() {
	lines := bufio.NewScanner(b.fifo)
	for lines.Scan() {
		var number string
		var tell told
		fmt.Sscan(lines.Text(), &number, &tell.at, &tell.grandchild)
		if tell.at == 0 {
			tell.at = monotime.Now() // a shell does not know the clock; so it can be a moment late
		}
		b.mu.Lock()
		if ch := b.tellers[number]; ch != nil {
			ch <- tell
		}
		b.mu.Unlock()
	}
}

// spawner returns the one with the ladder that the case needs.
func (b *faultBench) spawner(c faultCase, want outcome) *forkspawn.Spawner {
	by := cmp.Or(want.stop.By, forkspawn.EndedAsked)
	if c.timeUp {
		by = forkspawn.EndedBefore
	}
	return b.spawners[c.net+string(by)]
}

// verdict is what came of a case; testify's functions write into it what is wrong.
type verdict struct {
	faultCase
	time  time.Duration
	text  string
	wrong []string
	hung  bool
}

func (v *verdict) Errorf(format string, args ...any) {
	v.wrong = append(v.wrong, fmt.Sprintf(format, args...))
}

var (
	errGaveUp = errors.New("the caller gave up")
	errHung   = errors.New("hung")
)

// run runs a case. The bound is there to find hangs.
func (b *faultBench) run(number int, c faultCase) *verdict {
	v := &verdict{faultCase: c}
	done := make(chan struct{})
	go func() {
		defer close(done)
		b.play(itoa(number), c, v)
	}()
	select {
	case <-done:
		return v
	case <-time.After(2 * bound):
		return &verdict{faultCase: c, hung: true, text: "hung", wrong: []string{"it hung"}}
	}
}

func (b *faultBench) play(number string, c faultCase, v *verdict) {
	want := expected(c)
	tells := make(chan told, 1)
	b.mu.Lock()
	b.tellers[number] = tells
	b.mu.Unlock()

	program, err := os.Executable()
	if !assert.NoError(v, err) {
		return
	}
	cmd := forkspawn.Command{Path: program}
	if c.point == atStart {
		cmd = forkspawn.Command{Path: "sh", Args: []string{"-c", shellFault(c.fault), program}}
	}
	cmd.Env = append(os.Environ(), faultEnv+"="+string(c.point)+"/"+string(c.fault), tellEnv+"="+number+" "+b.fifo.Name())

	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	defer time.AfterFunc(bound, func() { cancel(errHung) }).Stop()
	var tell told
	var began int64 // of what makes the error
	heard := make(chan struct{})
	go func() {
		defer close(heard)
		select {
		case tell = <-tells:
			began = tell.at
			if want.gaveUp && want.ready == never && !c.timeUp {
				began = monotime.Now()
				cancel(errGaveUp)
			}
		case <-time.After(bound):
		}
	}()
	called := monotime.Now()
	child, err := b.spawner(c, want).SpawnCommand(ctx, cmd, spawnspec.Spec{Name: "faulty"})
	ended := monotime.Now()
	// When Spawn has failed nothing is left, at this moment.
	var boot *forkspawn.BootError
	gone := errors.As(err, &boot) && !alive(boot.PID)
	if child != nil {
		method := cmp.Or(os.Getenv(methodEnv), forkspawn.MethodExec)
		if c.point == atStart {
			method = forkspawn.MethodExec
		}
		assert.Equal(v, method, child.Spec().Method)
	}
	if child != nil && (c.point == atOpen || c.fault == floodsOn && c.point != atStop) {
		assert.NoError(v, child.Send(ctx, "hello"))
	}
	if c.point == atStop && child != nil {
		if want.stop.By != forkspawn.EndedAsked { // the grace is short, and it must come to its point before that is over
			assert.NoError(v, child.Cancel(ctx, "the fault"))
			<-heard
		}
		v.time = b.checkChild(ctx, c, want, child, 0, v)
	}
	<-heard
	if !assert.NotZero(v, tell.at, "the child came to its point: %v", err) {
		if child != nil {
			child.Kill()
		}
		return
	}
	if c.timeUp {
		began = called + bootTimeout.Nanoseconds()
	}

	if child == nil {
		v.time = time.Duration(ended - began)
		b.checkError(c, want, err, v)
		if boot != nil {
			assert.True(v, gone, "the process is gone and reaped when Spawn returns")
			v.nothingLeft(boot.PID, tell.grandchild)
		}
		return
	}
	if c.point != atStop {
		v.time = b.checkChild(ctx, c, want, child, began, v)
	}
	v.nothingLeft(child.PID(), tell.grandchild)
}

// checkError looks at the error of a Spawn that has failed.
func (b *faultBench) checkError(c faultCase, want outcome, err error, v *verdict) {
	v.text = err.Error()
	assert.NotEqual(v, always, want.ready, "it becomes ready: %v", err)
	assert.False(v, errors.Is(err, errHung), "it hung")
	var boot *forkspawn.BootError
	if !assert.ErrorAs(v, err, &boot) {
		return
	}
	assert.Equal(v, want.phase, boot.Phase, "phase")
	assert.Equal(v, want.status, boot.Status, "status")
	switch {
	case want.gaveUp && c.timeUp:
		assert.ErrorIs(v, err, forkspawn.ErrBootTimeout)
		assert.ErrorIs(v, err, context.DeadlineExceeded)
	case want.gaveUp:
		assert.ErrorIs(v, err, errGaveUp)
		assert.ErrorIs(v, err, context.Canceled)
	}
	if want.is != nil {
		assert.ErrorIs(v, err, want.is)
	}
	if want.as != nil {
		assert.True(v, asOf(err, want.as), "%T in %v", want.as, err)
	}
	assert.Contains(v, err.Error(), want.text)
	v.checkTail(want, boot.Stderr)
}

// asOf is errors.As with a target that several cases may share.
func asOf(err error, target any) bool {
	switch target.(type) {
	case **handshake.VersionError:
		return errors.As(err, new(*handshake.VersionError))
	case **handshake.FailedError:
		return errors.As(err, new(*handshake.FailedError))
	}
	return false
}

func (v *verdict) checkTail(want outcome, tail string) {
	if !strings.HasSuffix(tail, want.stderr) {
		assert.Fail(v, "stderr", "%q does not end in %q", tail[max(0, len(tail)-100):], want.stderr)
	}
	if v.fault == floods || v.fault == floodsOn {
		assert.Len(v, tail, 4<<10)
	}
}

// checkChild looks at a child that became ready and ends it. It returns the time from the fault to the
// error, or, where nothing is told before, what Stop took.
func (b *faultBench) checkChild(ctx context.Context, c faultCase, want outcome, child *forkspawn.Child, began int64, v *verdict) (d time.Duration) {
	defer child.Kill()
	assert.NotEqual(v, never, want.ready, "it becomes ready")
	var got any
	switch {
	case want.status.Known() || want.is != nil:
		err := child.Recv(ctx, &got)
		d = time.Duration(monotime.Now() - began)
		if !assert.Error(v, err) {
			return d
		}
		v.text = err.Error()
		var exit *forkspawn.ExitError
		if want.status.Known() {
			if assert.ErrorAs(v, err, &exit) {
				assert.Equal(v, want.status, exit.Status, "status")
				assert.Contains(v, err.Error(), want.text)
				v.checkTail(want, exit.Stderr)
			}
			result, err := child.Stop(ctx)
			assert.NoError(v, err)
			assert.Equal(v, forkspawn.EndedBefore, result.By)
			return d
		}
		assert.False(v, errors.As(err, &exit), "it lives: %v", err)
		assert.ErrorIs(v, err, want.is)
	case c.fault == floodsOn && c.point != atStop:
		assert.NoError(v, child.Recv(ctx, &got))
		assert.Equal(v, "hello", got)
		assert.Len(v, child.StdoutTail(), 4<<10)
	}
	result, err := child.Stop(ctx)
	assert.NoError(v, err)
	assert.Equal(v, want.stop.By, result.By, "what Stop took")
	assert.Equal(v, want.stop.Status, result.Status, "status")
	v.checkTail(want, child.StderrTail())
	if v.text == "" {
		v.text, d = "stopped: "+result.String(), result.Elapsed
	}
	return d
}

// nothingLeft checks that a child's process was reaped, and that its group and its grandchild are gone, for
// which their new parent may not have reaped them.
func (v *verdict) nothingLeft(pid, grandchild int) {
	assert.False(v, alive(pid), "the process is gone and reaped")
	deadline := time.Now().Add(bound)
	for _, p := range append(groupOf(pid), grandchild) {
		for p != 0 && running(p) {
			if !assert.True(v, time.Now().Before(deadline), "process %d of the group lives on", p) {
				return
			}
			time.Sleep(time.Millisecond)
		}
	}
}

// groupOf returns the processes of a group, of all that there are.
func groupOf(pgid int) (list []int) {
	names, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			continue // it has ended
		}
		var pid, parent, group int
		var state string
		_, rest, _ := strings.Cut(string(b), ") ")
		fmt.Sscan(string(b), &pid)
		fmt.Sscan(rest, &state, &parent, &group)
		if group == pgid {
			list = append(list, pid)
		}
	}
	return list
}

// TestFaultTable fails children at every point of their start in every way, over both transports, and
// prints what their parent gets to hear and when. TestForkserver runs it over forked children too: the point "package init" is
// where those begin, and those that fail before main are executed.
//
//	go test -run TestFaultTable -v ./forkspawn
func TestFaultTable(t *testing.T) {
	if testing.Short() {
		t.Skip("starts many processes")
	}
	filter := regexp.MustCompile(*faultFilter)
	before := spawntest.TakeSnapshot(t)
	began := time.Now()

	b := newFaultBench(t)
	var cases []faultCase
	for _, c := range faultCases() {
		if filter.MatchString(c.String()) {
			cases = append(cases, c)
		}
	}
	verdicts := make([]*verdict, len(cases))
	slots := make(chan struct{}, 8)
	var wg sync.WaitGroup
	for i, c := range cases {
		wg.Go(func() {
			if !c.timeUp { // which waits and does no more
				slots <- struct{}{}
				defer func() { <-slots }()
			}
			verdicts[i] = b.run(i, c)
		})
	}
	wg.Wait()
	require.NoError(t, b.close())

	left := before.Leaks()
	for _, l := range left {
		t.Errorf("left behind: %s", l)
	}
	report(t, verdicts, len(left), time.Since(began))
}

var bootDetails = regexp.MustCompile(`^forkspawn: (spawn|child) "faulty" \(pid \d+\):? | \(start [^)]*\)`)

// report prints the table.
func report(t *testing.T, verdicts []*verdict, leaks int, took time.Duration) {
	var table strings.Builder
	fmt.Fprintf(&table, "\n%-13s  %-33s  %-3s  %9s  %s\n", "point", "fault", "net", "ms", "what the parent is told")
	hangs := 0
	longest := slices.MaxFunc(verdicts, func(a, b *verdict) int { return cmp.Compare(a.time, b.time) })
	for _, v := range verdicts {
		if v.hung {
			hangs++
		}
		for _, w := range v.wrong {
			t.Errorf("%v: %s: %s", v.faultCase, w, v.text)
		}
	}
	order := append([]point{inHello, inAnswer}, points...)
	slices.SortStableFunc(verdicts, func(a, b *verdict) int {
		return cmp.Or(
			cmp.Compare(slices.Index(order, a.point), slices.Index(order, b.point)),
			cmp.Compare(slices.Index(faults, a.fault), slices.Index(faults, b.fault)),
			-strings.Compare(a.net, b.net),
		)
	})
	times := map[string][]time.Duration{}
	var names []string // in the table's order
	for _, v := range verdicts {
		name := string(v.fault)
		if v.timeUp {
			name += ", boot timeout"
		}
		if times[name] == nil {
			names = append(names, name)
		}
		times[name] = append(times[name], max(v.time, 0))
		text := strings.ReplaceAll(bootDetails.ReplaceAllString(v.text, ""), "\n", "; ")
		fmt.Fprintf(&table, "%-13s  %-33s  %-3s  %9.2f  %.140s\n", v.point, name, v.net, float64(max(v.time, 0))/1e6, text)
	}
	fmt.Fprintf(&table, "\n%-33s  %5s  %9s  %9s\n", "fault, at all points", "cases", "median ms", "most ms")
	for _, name := range names {
		all := slices.Sorted(slices.Values(times[name]))
		fmt.Fprintf(&table, "%-33s  %5d  %9.2f  %9.2f\n", name, len(all), float64(all[len(all)/2])/1e6, float64(all[len(all)-1])/1e6)
	}
	fmt.Fprintf(&table, "%d cases, %d hangs, %d leaks, longest time %v (%v), all in %v\n",
		len(verdicts), hangs, leaks, longest.time.Round(10*time.Microsecond), longest.faultCase, took.Round(10*time.Millisecond))
	t.Log(table.String())
}
