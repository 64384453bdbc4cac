package slurm

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/launch/internal/session"
)

// command is a running srun or salloc.
type command struct {
	*session.Client
	program string // its name
	process forkspawn.Process
}

// alone is a process whose group is itself. srun has a second process in its group,
// which ends the step if srun was killed.
type alone struct{ forkspawn.Process }

func (p alone) SignalGroup(sig syscall.Signal) error { return p.Signal(sig) }

// startCommand starts a program with start. In the end the caller calls End.
func startCommand(
	l *forkspawn.Launch, program string, args, env []string, nonce string,
	start func(forkspawn.ProcessAttr) (forkspawn.Process, error),
) (*command, error) {
	c := &command{program: program}
	var err error
	c.Client, err = session.StartClient(l, args, nonce,
		func(attr forkspawn.ProcessAttr) (forkspawn.Process, error) {
			attr.OwnGroup = false // NewSession keeps it from this process's terminal
			// If it is killed, it can leave its job. SIGTERM lets it end the job.
			attr.ParentDeathSignal = syscall.SIGTERM
			attr.Env = env
			p, err := start(attr)
			if err != nil {
				return nil, err
			}
			c.process = alone{p}
			return c.process, nil
		})
	if err != nil {
		return nil, fmt.Errorf("slurm: %w", err)
	}
	return c, nil
}

// await waits until the far side is ready, and returns the rest of its answer.
func (c *command) await(ctx context.Context) (string, error) {
	var queued error // why the job has not begun
	rest, interrupted, err := c.AwaitReady(ctx, func() {
		queued = c.queued()
		if c.program == "srun" {
			c.process.Signal(syscall.SIGTERM)
		}
		c.Interrupt(interruptBound, syscall.SIGTERM)
	})
	switch {
	case err == nil:
		return rest, nil
	case !interrupted:
		err = c.failed(err)
	case queued != nil:
		err = c.error(fmt.Errorf("%w: %w", queued, err))
	case strings.Contains(c.Words(), "ancelled pending job step"):
		err = c.error(fmt.Errorf("%w: %w", errInUse, err))
	}
	return "", err
}

const (
	// interruptBound is how long the program may take to cancel its job.
	interruptBound = 10 * time.Second
	// endBound is how long the program may take to end after its stdin has.
	endBound = 15 * time.Second
)

// inside reports whether this process runs in an allocation.
func inside() bool { return os.Getenv("SLURM_JOB_ID") != "" }

// environ returns this process's environment. For another allocation it is without the
// settings of the one around this process, such as SLURM_MEM_PER_NODE, because srun and
// salloc take them for options.
func environ(another bool) []string {
	env := os.Environ()
	if !another || !inside() {
		return env
	}
	return slices.DeleteFunc(env, func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return strings.HasPrefix(name, "SLURM_") && !slices.Contains(connecting, name)
	})
}

// connecting are the variables with the way to the controller.
var connecting = []string{"SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT"}
