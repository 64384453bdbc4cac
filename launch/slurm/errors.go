package slurm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"regexp"
	"strings"
	"time"

	"github.com/spawnwire/spawnwire/launch/internal/session"
)

// Causes of an [Error].
var (
	// ErrPending: the job was still in the queue when the start's time was over, or
	// when srun's --immediate was. Or all of the allocation was in use until then.
	ErrPending = errors.New("the job has not begun")
	// ErrPartition: there is no such partition.
	ErrPartition = errors.New("no such partition")
	// ErrController: Slurm's controller, its authentication or its configuration does
	// not work.
	ErrController = errors.New("the controller of Slurm cannot be reached")
	// ErrStart: Slurm has not started the step, for another reason. If the allocation
	// has ended, the error matches that reason too, or fs.ErrClosed after Close.
	ErrStart = errors.New("the step has not started")
	// ErrCancelled: the job or the step was cancelled, with scancel for example.
	ErrCancelled = errors.New("cancelled")
	// ErrTimeLimit: the job has reached its time limit.
	ErrTimeLimit = errors.New("the time limit is reached")
	// ErrNode: Slurm takes the node for down.
	ErrNode = errors.New("the node has failed")
	// ErrLost: the step has ended before the child, or srun has, or salloc was killed.
	ErrLost = errors.New("the step is lost")
	// ErrMemory: the kernel has killed the child for lack of memory, or Slurm has
	// ended the step for that. In the first case the error is found in the child's
	// [forkspawn.ExitError], and not in an Error.
	ErrMemory = session.ErrMemory
)

// Error is the error of a start with srun or salloc, and of a child with a lost step.
//
// errors.Is finds one of the causes above, or fs.ErrNotExist or fs.ErrPermission for
// Launcher.Program on the node. Without srun on this machine, the error of Launch matches
// fs.ErrNotExist and names it.
type Error struct {
	Stderr string // the last lines of srun's or salloc's stderr

	program string // srun or salloc
	err     error
}

func (e *Error) Error() string {
	s := fmt.Sprintf("slurm: %v", e.err)
	if reason := reasonIn(e.Stderr); reason != "" {
		s += fmt.Sprintf("; %s says %q", e.program, reason)
	}
	return s
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.err }

// reasonIn returns the line of srun's stderr with the cause, or the last line without
// an advice or a repeated exit status.
func reasonIn(s string) (reason string) {
	for line := range strings.Lines(s) {
		line = strings.TrimSpace(line)
		switch {
		case causeIn(line, endTexts) != nil || causeIn(line, startTexts) != nil:
			return line
		case line == "" || strings.HasPrefix(line, "Try "),
			strings.Contains(line, "Exited with exit code"),
			strings.Contains(line, "ranted job allocation"),
			strings.Contains(line, "has been revoked"),
			strings.Contains(line, "Job aborted due to signal"):
		default:
			reason = line
		}
	}
	return reason
}

// text is a text of Slurm, or of env(1) on the node.
type text struct {
	text string
	err  error
}

// endTexts are about steps after their start. The first one in srun's stderr decides.
var endTexts = []text{
	{"DUE TO TIME LIMIT", ErrTimeLimit},
	{"DUE TO NODE FAILURE", ErrNode},
	{"ode failure on", ErrNode},
	{"xceeded job memory limit", ErrMemory},
	{"xceeded step memory limit", ErrMemory},
	{"exceeded memory limit", ErrMemory},
	{"oom-kill", ErrMemory},
	{"oom_kill", ErrMemory},
	{"CANCELLED AT", ErrCancelled},
	{"Job has been cancelled", ErrCancelled},
}

// The texts of srun about a job that is over.
const (
	completed  = "already completing or completed"
	invalidJob = "xpired or invalid job"
)

func saysJobIsOver(words string) bool {
	return strings.Contains(words, completed) || strings.Contains(words, invalidJob)
}

// startTexts are about steps before it.
var startTexts = []text{
	{completed, ErrStart},
	{invalidJob, ErrStart},
	{"nvalid partition", ErrPartition},
	{"Requested nodes are busy", ErrPending},
	{"Unable to contact slurm controller", ErrController},
	{"Unable to process configuration file", ErrController},
	{"onfiguration source", ErrController},
	{"Munge encode failed", ErrController},
	{"Protocol authentication error", ErrController},
	{"ancelled pending job step", ErrPending},
	{"No such file or directory", fs.ErrNotExist},
	{"Permission denied", fs.ErrPermission},
}

func causeIn(words string, texts []text) error {
	for _, t := range texts {
		if strings.Contains(words, t.text) {
			return t.err
		}
	}
	return nil
}

// error returns an Error with a cause.
func (c *command) error(cause error) error {
	return &Error{Stderr: c.Words(), program: c.program, err: cause}
}

// failed returns the error of a start without an answer of the far side.
func (c *command) failed(cause error) error {
	status, ended := c.Ended()
	words := c.Words()
	if !ended {
		return c.error(fmt.Errorf("%w: no greeting: %w", ErrStart, cause))
	}
	for _, texts := range [][]text{endTexts, startTexts} {
		if err := causeIn(words, texts); err != nil {
			return c.error(err)
		}
	}
	return c.error(fmt.Errorf("%w: %s has ended: %v", ErrStart, c.program, status))
}

// errInUse is the error of a step that has waited for a part of the allocation. srun
// reports the wait after ten seconds or more, or when it ends.
var errInUse = fmt.Errorf("%w: all of the allocation is in use", ErrPending)

// queuedText is srun's text about a job in the queue, or about a step that waits in an
// allocation.
var queuedText = regexp.MustCompile(`(?i)job (\d+) (queued and waiting|step creation)`)

// squeueBound bounds the question for a job's reason.
const squeueBound = 2 * time.Second

// queued returns why the job is in the queue, with the reason of squeue(1), or nil.
func (c *command) queued() error {
	words := c.Words()
	m := queuedText.FindStringSubmatch(words)
	if m == nil || strings.Contains(words, "job "+m[1]+" has been allocated") {
		return nil
	}
	if m[2] != "queued and waiting" {
		return errInUse
	}
	if reason := squeue(m[1], "%r"); reason != "" {
		return fmt.Errorf("%w: %s", ErrPending, reason)
	}
	return ErrPending
}

// squeue returns something about a job in a format of squeue(1), or "".
func squeue(job, format string) string {
	ctx, cancel := context.WithTimeout(context.Background(), squeueBound)
	defer cancel()
	cmd := exec.CommandContext(ctx, "squeue", "--noheader", "--states=all",
		"--jobs="+job, "--format="+format)
	cmd.WaitDelay = squeueBound
	out, _ := cmd.Output() // after an error it is empty
	return strings.TrimSpace(string(out))
}
