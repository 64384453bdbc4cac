package kubernetes

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/internal/wait"
)

const (
	// forceAfter is how long the kubelet may take to end a pod with a grace of a second:
	// it gives each container two, and then reports. After it the pod is deleted without
	// the kubelet.
	forceAfter = 5 * time.Second
	// giveUpAfter is how long the API server may take for that. forkspawn waits for ten
	// seconds after SIGKILL.
	giveUpAfter = 4 * time.Second
	// settleBound bounds the wait for the last lines of the log, after the child's end.
	settleBound = 500 * time.Millisecond
	// maxSignals is how many signals may wait.
	maxSignals = 16
)

// child is a child in a pod. It implements forkspawn.Launched.
type child struct {
	*pod
	watch    *watch
	first    state // in which the container has started
	log      *log
	signals  chan syscall.Signal // for live
	asked    atomic.Bool         // this process has asked for the end
	killing  sync.Once
	hopeless chan struct{} // closed if SIGKILL has had no effect

	status forkspawn.ExitStatus // set before exited is closed, like lost
	lost   error
	exited chan struct{}
}

func newChild(p *pod, output *os.File) *child {
	return &child{pod: p, watch: p.newWatch(), log: newLog(p, output),
		signals: make(chan syscall.Signal, maxSignals), hopeless: make(chan struct{}),
		exited: make(chan struct{})}
}

// start creates the pod and waits until its container runs. After an error nothing is left.
func (c *child) start(ctx context.Context) error {
	err := c.create(ctx)
	if err == nil {
		err = c.awaitStart(ctx)
	}
	if err == nil {
		return nil
	}
	c.watch.stop()
	c.log.close()
	if left := c.remove(); left != nil {
		return fmt.Errorf("%w; the pod may be left, because its deletion has failed: %w", err, left)
	}
	return err
}

// awaitStart waits until the container runs or has ended.
func (c *child) awaitStart(ctx context.Context) error {
	for {
		s, ok := c.watch.next(ctx, true)
		switch {
		case !ok && ctx.Err() == nil:
			return c.refused(c.watch.err)
		case !ok:
			return c.late(s.pod, c.watch.err, wait.Cause(ctx))
		case s.gone:
			return c.failed(s.pod, cmp.Or(causeOf(s.pod), ErrDeleted))
		}
		if cause := c.whyNotStarted(s.pod); cause != nil {
			return c.failed(s.pod, cause)
		}
		if st := stateOf(s.pod, c.container); st.Running != nil || st.Terminated != nil {
			c.first = s
			return nil
		}
	}
}

// live follows the pod until the child has ended, and then deletes it.
func (c *child) live() {
	ctx, cancel := context.WithCancel(context.Background())
	defer c.watch.stop()
	var work sync.WaitGroup
	defer work.Wait()
	defer cancel()
	states := make(chan state)
	work.Go(func() { c.follow(ctx, states) })
	work.Go(func() { retry(ctx, c.deleteSecret) }) // the container has its file
	work.Go(func() { c.log.copy(ctx) })
	s := c.first
	for !c.isEnd(&s) {
		select {
		case s = <-states:
		case sig := <-c.signals:
			c.pass(ctx, sig, &work)
		case <-c.hopeless:
			c.lost = c.failed(s.pod, joined(ErrLost, causeOf(s.pod)))
		}
	}
	c.log.settle(settleBound)
	close(c.exited)
	if s.gone || c.keep && !c.status.Success() {
		return
	}
	deleting, stop := context.WithTimeout(ctx, removeBound)
	defer stop()
	retry(deleting, func(ctx context.Context) error { return c.delete(ctx, nil) })
}

// follow sends the states of the pod until it is gone or ctx ends.
func (c *child) follow(ctx context.Context, states chan<- state) {
	for {
		s, ok := c.watch.next(ctx, false)
		if !ok {
			return
		}
		select {
		case states <- s:
		case <-ctx.Done():
			return
		}
		if s.gone {
			return
		}
	}
}

// pass lets the kubelet send a signal.
func (c *child) pass(ctx context.Context, sig syscall.Signal, work *sync.WaitGroup) {
	if sig != syscall.SIGKILL {
		work.Go(func() {
			retry(ctx, func(ctx context.Context) error { return c.delete(ctx, nil) })
		})
		return
	}
	c.killing.Do(func() { work.Go(func() { c.kill(ctx) }) })
}

// kill deletes the pod by force. With a grace of 0 the object would be gone at once, while
// the child may still run, and nobody would know its exit status.
func (c *child) kill(ctx context.Context) {
	for _, step := range []struct {
		grace int64
		bound time.Duration
	}{{1, forceAfter}, {0, giveUpAfter}} {
		deleting, stop := context.WithTimeout(ctx, step.bound)
		retry(deleting, func(ctx context.Context) error { return c.delete(ctx, &step.grace) })
		<-deleting.Done()
		stop()
	}
	if ctx.Err() == nil {
		close(c.hopeless)
	}
}

// isEnd reports whether the child has ended, and sets how.
func (c *child) isEnd(s *state) bool {
	if c.lost != nil {
		return true
	}
	st := stateOf(s.pod, c.container)
	end := st.Terminated
	over := s.pod.Status.Phase == corev1.PodFailed || s.pod.Status.Phase == corev1.PodSucceeded
	switch {
	case end != nil && end.Reason != reasonUnknown:
		c.status = statusOf(end)
		c.lost = c.whyEnded(s.pod, end)
		return true
	case end != nil, s.gone, over && st.Running == nil:
		c.lost = c.failed(s.pod, joined(ErrLost, causeOf(s.pod)))
		return true
	}
	return false
}

// joined returns an error with an explanation.
func joined(err, cause error) error {
	if cause == nil {
		return err
	}
	return fmt.Errorf("%w: %w", err, cause)
}

// stateOf returns the state of a container.
func stateOf(pod *corev1.Pod, name string) corev1.ContainerState {
	for _, s := range pod.Status.ContainerStatuses {
		if s.Name == name {
			return s.State
		}
	}
	return corev1.ContainerState{}
}

// statusOf returns how a container has ended. Runtimes report a signal as 128 plus its
// number.
func statusOf(end *corev1.ContainerStateTerminated) forkspawn.ExitStatus {
	const signalled, lastSignal = 128, 64
	sig := end.Signal
	if n := end.ExitCode - signalled; sig == 0 && n > 0 && n <= lastSignal {
		sig = n
	}
	if sig != 0 {
		return forkspawn.KilledStatus(syscall.Signal(sig), false)
	}
	return forkspawn.ExitedStatus(int(end.ExitCode))
}

// PID returns 0, because the number is one of another kernel.
func (c *child) PID() int { return 0 }

// Wait waits until the child has ended or is lost.
func (c *child) Wait() forkspawn.ExitStatus {
	<-c.exited
	return c.status
}

// Err returns why the status is unknown or what else is known of the end, or nil.
func (c *child) Err() error {
	<-c.exited
	return c.lost
}

// SignalGroup is Signal, because the signal of a pod's end is for its containers.
func (c *child) SignalGroup(sig syscall.Signal) error { return c.Signal(sig) }

var errBusy = errors.New("the API server takes no more signals")

// Signal deletes the pod, for SIGTERM, SIGINT and SIGKILL. It does not wait for the API
// server.
func (c *child) Signal(sig syscall.Signal) error {
	if wait.Closed(c.exited) {
		return os.ErrProcessDone
	}
	switch sig {
	case syscall.SIGTERM, syscall.SIGINT, syscall.SIGKILL:
	default:
		return fmt.Errorf("kubernetes: signal %v to a pod: %w", sig, errors.ErrUnsupported)
	}
	c.asked.Store(true)
	select {
	case c.signals <- sig:
		return nil
	default:
		return errBusy
	}
}
