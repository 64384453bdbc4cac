package slurm

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/internal/link"
	"github.com/spawnwire/spawnwire/internal/wait"
)

// Allocation is one job with the resources of many children. Its methods may be called
// concurrently.
type Allocation struct {
	salloc  *command       // in the script holder
	job     string         // its id
	over    chan struct{}  // closed when salloc has ended
	once    sync.Once      // closes closing
	closing chan struct{}  // closed by Close
	running sync.WaitGroup // all goroutines
	gone    chan struct{}  // closed when the job has ended, after why and err are set
	why     error          // why it has ended
	err     error          // of Close
}

// holder is a script of sh(1) that runs salloc on this machine and ends its job at the end
// of stdin, also when this process was killed, or when salloc was. It sends salloc no
// signal before all else has failed: a handler in salloc takes locks, and can wait for
// ever.
const holder = `name=$1
shift
trap '' PIPE
exec 3<&0
"$@" <&3 3<&- &
salloc=$!
{
	read -r end <&3
	for try in 1 2; do
		sleep 0.5
		scancel --quiet --name="$name"
		kill -0 "$salloc" || exit
		sleep 0.5
	done
	kill -KILL "$salloc"
} >/dev/null 2>&1 &
canceller=$!
wait "$salloc"
status=$?
kill "$canceller"
[ "$status" -lt 128 ] || scancel --quiet --name="$name"
exit "$status"`

// granted is what salloc runs. salloc ends the job with it and its status.
const granted = `echo "$0 ready $SLURM_JOB_ID"
read -r end
exit 0`

// Allocate submits one job with salloc(1), and waits until Slurm has granted it.
//
//	all, err := slurm.Allocate(ctx, "--ntasks=64", "--mem-per-cpu=2G")
//	defer all.Close()
//	nodes := &slurm.Launcher{Allocation: all}
//
// options are those of salloc. A job with n tasks has the resources for n children of a
// [Launcher] with this Allocation, and they wait in the queue once. Also inside of an
// allocation Allocate submits a job of its own.
//
// If ctx ends first, the error is an [*Error] with ErrPending and the reason of
// squeue(1). An [*Error] also says why Slurm has refused the job. Without salloc on
// this machine the error matches fs.ErrNotExist. After an error no job is left.
//
// The caller must call Close in the end, after the children have ended. If this process
// dies, the job is cancelled too. Its name begins with "spawnwire-".
func Allocate(ctx context.Context, options ...string) (*Allocation, error) {
	nonce := rand.Text()
	name := "spawnwire-" + nonce[:8]
	args := slices.Concat([]string{"/bin/sh", "-c", holder, "sh", name, "salloc"}, options,
		// Without --kill-command salloc waits for its command after the end of the job.
		[]string{"--job-name=" + name, "--kill-command=KILL",
			"/bin/sh", "-c", granted, link.Magic + nonce})
	if _, err := exec.LookPath("salloc"); err != nil {
		return nil, fmt.Errorf("slurm: %w",
			&fs.PathError{Op: "exec", Path: "salloc", Err: fs.ErrNotExist})
	}
	a := &Allocation{over: make(chan struct{}), gone: make(chan struct{}),
		closing: make(chan struct{})}
	c, err := startCommand(&forkspawn.Launch{Go: a.running.Go}, "salloc", args,
		environ(true), nonce, a.start)
	if err != nil {
		return nil, err
	}
	a.salloc = c
	a.job, err = c.await(ctx)
	a.running.Go(a.end)
	if err != nil {
		return nil, errors.Join(err, a.Close())
	}
	return a, nil
}

// start starts the script, which outlives this process for a moment.
func (a *Allocation) start(attr forkspawn.ProcessAttr) (forkspawn.Process, error) {
	attr.ParentDeathSignal = 0
	// The subreaper of this process's parent would kill the script too early.
	attr.Env = slices.DeleteFunc(attr.Env, func(kv string) bool {
		return strings.HasPrefix(kv, "SPAWNWIRE_")
	})
	p, err := forkspawn.StartProcess(attr)
	if err != nil {
		return nil, err
	}
	a.running.Go(func() {
		p.Wait()
		close(a.over)
	})
	return p, nil
}

// Close ends the job, with all children in it that still run. It returns an error if the
// job may go on.
func (a *Allocation) Close() error {
	a.once.Do(func() { close(a.closing) })
	a.running.Wait()
	return a.err
}

// end waits for Close or the end of salloc, and ends the job.
func (a *Allocation) end() {
	defer close(a.gone)
	select {
	case <-a.closing:
	case <-a.over:
	}
	status := a.salloc.End(endBound)
	if status.Signal() != 0 {
		a.err = a.salloc.error(fmt.Errorf("job %s may go on: sh has ended: %v", a.job, status))
	}
	a.why = cmp.Or(a.revoked(), fmt.Errorf("%w: salloc has ended: %v", ErrLost, status))
}

// revoked returns why Slurm has ended the job, or nil.
func (a *Allocation) revoked() error {
	words := a.salloc.Words()
	if !strings.Contains(words, "has been revoked") || strings.Contains(words, "elinquishing") {
		return nil // salloc has ended it
	}
	return a.squeue()
}

// squeue returns why an ended job has ended.
func (a *Allocation) squeue() error {
	// During the end of the job the state is COMPLETING. Then only the reason says more.
	state, reason, _ := strings.Cut(squeue(a.job, "%T %r"), " ")
	return cmp.Or(ends[state], ends[reason], ErrCancelled)
}

// ends has the meaning of states and reasons of ended jobs, as squeue(1) names them.
var ends = map[string]error{
	"TIMEOUT": ErrTimeLimit, "TimeLimit": ErrTimeLimit, "DEADLINE": ErrTimeLimit,
	"NODE_FAIL": ErrNode, "NodeDown": ErrNode, "OUT_OF_MEMORY": ErrMemory,
}

// revokedBound is how long salloc may take to learn of the end of its job.
const revokedBound = time.Second

// explain returns the error of a step that has not started because of err. srun can learn
// of the end of the job much earlier than salloc, which waits for all its nodes.
func (a *Allocation) explain(err error) error {
	if !errors.Is(err, ErrStart) {
		return err
	}
	if a.reason() != nil {
		return a.ended()
	}
	var failed *Error
	if errors.As(err, &failed) && saysJobIsOver(failed.Stderr) {
		err = fmt.Errorf("%w: its allocation has ended: %w", ErrStart, a.squeue())
		return &Error{Stderr: failed.Stderr, program: failed.program, err: err}
	}
	return err
}

// ended returns why there is no allocation, or nil if there is.
func (a *Allocation) ended() error {
	if !wait.Closed(a.closing) && !wait.Closed(a.over) {
		return nil
	}
	return a.salloc.error(fmt.Errorf("%w: %w", ErrStart, a.reason()))
}

// reason returns why the allocation has ended. If it has not ended for some time, reason
// returns nil.
func (a *Allocation) reason() error {
	switch {
	case wait.Closed(a.closing):
		return fmt.Errorf("its allocation has ended: %w", fs.ErrClosed)
	case wait.Closed(a.over):
		<-a.gone // it has a bound
	case !wait.For(context.Background(), a.gone, revokedBound):
		return nil
	}
	return fmt.Errorf("its allocation has ended: %w", a.why)
}
