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
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/spawnspec"
	"github.com/spawnwire/spawnwire/transport"
)

var faultFilter = flag.String("faults", "",
	"TestFaultTable runs only the cases whose `point/fault/transport` matches this regular expression")

// faultBench has the Spawners, one for each network and each way to end children.
// The cases share them, so each case runs while others start and fail.
type faultBench struct {
	spawners map[string]*forkspawn.Spawner
	fifo     *os.File

	mu      sync.Mutex // guards waiting
	waiting map[string]chan arrival
}

// arrival is a child's report that it is at its point.
type arrival struct {
	at         int64 // of monotime.Now
	grandchild int   // its pid, or 0
}

// A grace is short if the child lets it end, and bound if the child must not let
// it end.
const (
	short = 50 * time.Millisecond
	// a child needs less to arrive at its point; a hello has as long, from later on
	bootTimeout = 10 * time.Second
)

func newFaultBench(t *testing.T) *faultBench {
	b := &faultBench{spawners: map[string]*forkspawn.Spawner{}, waiting: map[string]chan arrival{}}
	path := filepath.Join(t.TempDir(), "fifo")
	require.NoError(t, syscall.Mkfifo(path, 0o600))
	program, err := os.Executable()
	require.NoError(t, err)
	// as a writer, too, so that reading never meets the end
	b.fifo, err = os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	for network, listen := range map[string]transport.Addr{"uds": {},
		"tcp": {Scheme: "tcp", Target: "127.0.0.1:0"}} {
		for by, cfg := range map[forkspawn.Ending]forkspawn.Config{
			forkspawn.Asked:        {StopGrace: bound, TermGrace: bound, BootTimeout: 2 * bound},
			forkspawn.Terminated:   {StopGrace: short, TermGrace: bound, BootTimeout: 2 * bound},
			forkspawn.Killed:       {StopGrace: short, TermGrace: short, BootTimeout: 2 * bound},
			forkspawn.AlreadyEnded: {BootTimeout: bootTimeout},
		} {
			cfg.Listen, cfg.Stdout, cfg.Stderr = listen, forkspawn.Capture(nil),
				forkspawn.Capture(nil)
			cfg.Method, cfg.Command = forkspawn.Method(os.Getenv(testkit.MethodEnv)),
				forkspawn.Command{Path: program, Env: append(os.Environ(), faultTemplateEnv+"=1")}
			s, err := forkspawn.New(cfg)
			require.NoError(t, err)
			require.NoError(t, s.AwaitTemplate(testkit.Context(t)),
				"its template, where there is one")
			b.spawners[network+by.String()] = s
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
		var arrived arrival
		fmt.Sscan(lines.Text(), &number, &arrived.at, &arrived.grandchild)
		if arrived.at == 0 {
			arrived.at = monotime.Now() // a shell cannot read the clock; this may be a moment late
		}
		b.mu.Lock()
		if ch := b.waiting[number]; ch != nil {
			ch <- arrived
		}
		b.mu.Unlock()
	}
}

// spawner returns the Spawner with the graces of the case.
func (b *faultBench) spawner(c faultCase, want outcome) *forkspawn.Spawner {
	by := cmp.Or(want.stop.By, forkspawn.Asked)
	if c.timeUp {
		by = forkspawn.AlreadyEnded
	}
	return b.spawners[c.net+by.String()]
}

// verdict is the result of a case. It collects the failures of assertions.
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
	errCancelled = errors.New("the caller cancelled")
	errHung      = errors.New("hung")
)

// run runs a case. The bound only finds hangs.
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
	arrivals := make(chan arrival, 1)
	b.mu.Lock()
	b.waiting[number] = arrivals
	b.mu.Unlock()

	opts, allClosed := b.start(number, c, v)
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	defer time.AfterFunc(bound, func() { cancel(errHung) }).Stop()
	var arrived arrival
	var began int64 // when the reason of the error began
	reported := make(chan struct{})
	go func() {
		defer close(reported)
		select {
		case arrived = <-arrivals:
			began = arrived.at
			if want.cancelled && want.ready == never && !c.timeUp {
				began = monotime.Now()
				cancel(errCancelled)
			}
		case <-time.After(bound):
		}
	}()
	called := monotime.Now()
	child, err := b.spawner(c, want).Spawn(ctx, spawnspec.Spec{Name: "faulty"}, opts...)
	ended := monotime.Now()
	// At the moment when Spawn returns an error, nothing is left of the child.
	var boot *forkspawn.BootError
	gone := errors.As(err, &boot) && (boot.PID == 0 || !alive(boot.PID))
	if child != nil && !c.program() {
		method := cmp.Or(forkspawn.Method(os.Getenv(testkit.MethodEnv)), forkspawn.MethodExec)
		if c.point == atStart {
			method = forkspawn.MethodExec
		}
		assert.Equal(v, string(method), child.Spec().Method)
	}
	if child != nil && !c.program() &&
		(c.point == atOpen || c.fault == floodsOn && c.point != atStop) {
		assert.NoError(v, child.Send(ctx, "hello"))
	}
	if c.point == atStop && child != nil {
		// the child must be at its point before the short grace ends
		if want.stop.By != forkspawn.Asked {
			assert.NoError(v, child.RequestStop(ctx, "the fault"))
			<-reported
		}
		v.time = b.checkChild(ctx, c, want, child, 0, v)
	}
	<-reported
	if !assert.NotZero(v, arrived.at, "the child came to its point: %v", err) {
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
			v.nothingLeft(boot.PID, arrived.grandchild)
		}
		allClosed()
		return
	}
	switch {
	case c.program():
		v.time = b.checkProgram(ctx, want, child, began, v)
	case c.point != atStop:
		v.time = b.checkChild(ctx, c, want, child, began, v)
	}
	v.nothingLeft(child.PID(), arrived.grandchild)
	allClosed()
}

// checkError checks the error of a Spawn.
func (b *faultBench) checkError(c faultCase, want outcome, err error, v *verdict) {
	v.text = err.Error()
	assert.NotEqual(v, always, want.ready, "it becomes ready: %v", err)
	assert.False(v, errors.Is(err, errHung), "it hung")
	var boot *forkspawn.BootError
	if !assert.ErrorAs(v, err, &boot) {
		return
	}
	if want.cancelled && boot.PID == 0 {
		// The child arrived at its point before the parent had seen it start.
		want.phase = handshake.PhaseStart
	}
	assert.Equal(v, want.phase, boot.Phase, "phase")
	assert.Equal(v, want.status, boot.Status, "status")
	switch {
	case want.cancelled && c.timeUp:
		assert.ErrorIs(v, err, forkspawn.ErrBootTimeout)
		assert.ErrorIs(v, err, context.DeadlineExceeded)
	case want.cancelled:
		assert.ErrorIs(v, err, errCancelled)
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

// asOf calls errors.As with a new target of the same type, because cases run
// concurrently.
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

// checkChild checks a child that became ready, and stops it. It returns the time
// from the fault to the error, or how long Stop took if there is no error before.
func (b *faultBench) checkChild(ctx context.Context, c faultCase, want outcome,
	child *forkspawn.Child, began int64, v *verdict) (d time.Duration) {
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
			assert.Equal(v, forkspawn.AlreadyEnded, result.By)
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
	assert.Equal(v, want.stop.By, result.By, "how Stop ended it")
	assert.Equal(v, want.stop.Status, result.Status, "status")
	v.checkTail(want, child.StderrTail())
	if v.text == "" {
		v.text, d = "stopped: "+result.String(), result.Elapsed
	}
	return d
}

// nothingLeft checks that the library has waited for the child, and that the
// child's process group and its grandchild have ended. These may be zombies of
// another parent.
func (v *verdict) nothingLeft(pid, grandchild int) {
	left := []int{grandchild}
	if pid != 0 {
		assert.False(v, alive(pid), "the process is gone and reaped")
		left = append(left, groupOf(pid)...)
	}
	deadline := time.Now().Add(bound)
	for _, p := range left {
		for p != 0 && running(p) {
			if !assert.True(v, time.Now().Before(deadline), "process %d of the group lives on", p) {
				return
			}
			time.Sleep(time.Millisecond)
		}
	}
}

// groupOf returns the processes of a process group.
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

// TestFaultTable fails children at every point of their start in every way, over
// both transports. It prints the error in the parent, and how long that took.
//
// TestForked of internal/reforktest runs it with forked children, too. They begin at the point
// "package init". The children that fail before main are executed.
//
// It runs about a third of the cases unless SPAWNWIRE_LONG=1 is set:
//
//	SPAWNWIRE_LONG=1 go test -run TestFaultTable -v ./forkspawn
func TestFaultTable(t *testing.T) {
	filter := regexp.MustCompile(*faultFilter)
	before := spawntest.TakeSnapshot(t)
	began := time.Now()

	b := newFaultBench(t)
	var cases []faultCase
	for i, c := range faultCases() {
		some := i%3 == 0 && !c.timeUp // a time-out takes ten seconds
		if filter.MatchString(c.String()) && (some || testkit.IsLong() || *faultFilter != "") {
			cases = append(cases, c)
		}
	}
	verdicts := make([]*verdict, len(cases))
	slots := make(chan struct{}, 8)
	var wg sync.WaitGroup
	for i, c := range cases {
		wg.Go(func() {
			if !c.timeUp { // a case with a time-out only waits
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
