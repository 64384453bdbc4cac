// Package slurm starts children on the nodes of a Slurm cluster, with the user's own
// srun(1) command and configuration.
//
//	nodes := &slurm.Launcher{Options: []string{"--partition=short", "--mem=2G"}}
//	there := forkspawn.WithCommand(forkspawn.Command{Launcher: nodes})
//	child, err := spawner.Spawn(ctx, spec, there)
//
// Each child is a job step of one task. Outside of an allocation srun makes one for it,
// and inside of one the step uses its resources. [Allocate] makes one allocation for many
// children. All connections of a child go through srun's stdin and stdout, so no port is
// opened.
//
// The program on the node calls forkspawn.Init or Join first thing in main, like every
// child. It then supervises the child: it passes signals on, and ends it when the
// connection to this process ends. The ticket with its secret goes through the connection
// too, and is never an argument, in the environment of a step or in a file.
package slurm

import (
	"context"
	"crypto/rand"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/internal/link"
	"github.com/spawnwire/spawnwire/launch/internal/session"
)

// Launcher starts children with srun. It implements forkspawn.Launcher. The zero value is
// ready to use. A Launcher must not be changed after its first use, and its methods may
// be called concurrently.
//
// A start lasts as long as the job waits in the queue, or the step for a free processor
// of the allocation. So forkspawn.Config.BootTimeout and the context bound that wait too.
type Launcher struct {
	// Command is the srun command and its first arguments. Nil is "srun".
	Command []string
	// Options are more options for srun: "--partition=short" or "--cpus-per-task=4",
	// for example. They win over the launcher's own. The step must have one task.
	// Inside of an allocation the launcher adds --exact, so the step has the processors
	// that it asks for, and others can run beside it.
	Options []string
	// Program is the absolute path of this program on the node. "" is the path of this
	// process's file, which the node must have too, on a shared file system for
	// example.
	Program string
	// Allocation has the steps of the children. Nil is the allocation around this
	// process, or a job for each child if there is none.
	Allocation *Allocation
}

var _ forkspawn.Launcher = (*Launcher)(nil)

// Launch implements forkspawn.Launcher. Its error is an [*Error] if srun has reported it,
// and an [*fs.PathError] if there is no srun on this machine.
func (n *Launcher) Launch(ctx context.Context, l *forkspawn.Launch) (forkspawn.Launched, error) {
	s, err := n.start(ctx, l)
	if err != nil {
		return nil, err
	}
	cfg := session.Patient
	cfg.Peer, cfg.Why = s.peer, s.why
	return session.Start(ctx, l, s, cfg)
}

// arguments returns the command line of srun, and the nonce in it.
func (n *Launcher) arguments() (args []string, nonce string, err error) {
	program, err := session.Program(n.Program)
	if err != nil {
		return nil, "", err
	}
	if !filepath.IsAbs(program) || strings.Contains(program, "=") {
		return nil, "", fmt.Errorf(
			"field Program: %q is not an absolute path without an equals sign", program)
	}
	command := n.Command
	if len(command) == 0 {
		command = []string{"srun"}
	}
	options := n.Options
	if n.Allocation != nil {
		options = append([]string{"--jobid=" + n.Allocation.job}, options...)
	}
	if n.Allocation != nil || inside() {
		// Otherwise the first step has the whole node.
		options = append([]string{"--exact"}, options...)
	}
	nonce = rand.Text()
	return slices.Concat(command, []string{"--nodes=1", "--ntasks=1", "--mpi=none",
		"--job-name=spawnwire", "--input=all", "--output=all", "--error=all",
		// Without it the node sends whole lines only.
		"--unbuffered"}, options,
		// The user's --export may keep variables from the node.
		[]string{"/usr/bin/env", session.Order(nonce), program},
	), nonce, nil
}

// step is a running srun. It implements session.Engine.
type step struct {
	*command
	allocation *Allocation // or nil
	lost       bool        // srun does not end by itself
}

// start starts srun and waits for the supervisor. After an error nothing is left.
func (n *Launcher) start(ctx context.Context, l *forkspawn.Launch) (*step, error) {
	if n.Allocation != nil {
		if err := n.Allocation.ended(); err != nil {
			return nil, err
		}
	}
	args, nonce, err := n.arguments()
	if err != nil {
		return nil, fmt.Errorf("slurm: %w", err)
	}
	// SLURM_LABELIO=1 puts a number before each line, and has no option against it.
	env := append(environ(n.Allocation != nil), "SLURM_LABELIO=0")
	c, err := startCommand(l, "srun", args, env, nonce,
		func(attr forkspawn.ProcessAttr) (forkspawn.Process, error) { return l.Start(ctx, attr) })
	if err != nil {
		return nil, err
	}
	s := &step{command: c, allocation: n.Allocation}
	if _, err := s.await(ctx); err != nil {
		s.lost = true
		s.End()
		if n.Allocation != nil {
			err = n.Allocation.explain(err)
		}
		return nil, err
	}
	return s, nil
}

// peer reports, after a silence, whether the step is over. Slurm decides whether a node is
// down. srun then ends the connection, unless it still has data for that node.
func (s *step) peer() link.Verdict {
	if causeIn(s.Words(), endTexts) != nil {
		return link.Dead
	}
	return link.Alive
}

// wordsBound is how long Slurm's words may come after a child that Slurm has killed.
const wordsBound = 2 * time.Second

// why returns why Slurm has ended a child with a signal, or nil. Slurm's words and the
// child's exit status come through two pipes.
func (s *step) why(status forkspawn.ExitStatus) error {
	killed := status.Signal() == syscall.SIGTERM || status.Signal() == syscall.SIGKILL
	for bound := time.Now().Add(wordsBound); ; time.Sleep(wordsBound / 50) {
		if why := causeIn(s.Words(), endTexts); why != nil {
			return s.error(why)
		}
		if !killed || time.Now().After(bound) {
			return nil
		}
	}
}

// Lost returns the error of a step that has ended before the child.
func (s *step) Lost(cause error) error {
	s.lost = true
	err := s.WhyLost("srun", ErrLost, cause)
	if why := causeIn(s.Words(), endTexts); why != nil {
		err = fmt.Errorf("%w: %w", why, err)
	} else if s.allocation != nil {
		if why := s.allocation.reason(); why != nil {
			err = fmt.Errorf("%w: %w", why, err)
		}
	}
	return s.error(err)
}

// End ends srun, and the step with it.
func (s *step) End() {
	if s.lost {
		s.process.Signal(syscall.SIGTERM) // srun then kills the step and waits for its end
		s.Ended()
	}
	s.Client.End(endBound)
}
