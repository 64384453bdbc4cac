package forkspawn

import (
	"context"
	"runtime"
)

// launcher is the one locked thread from which a Spawner starts its children: the kernel sends the
// parent-death signal when the thread that forked ends, not the process (prctl(2), golang/go#27505).
type launcher struct {
	requests chan launchRequest
	ended    chan struct{}
}

type launchRequest struct {
	start func() (Process, error)
	reply chan launchReply
}

type launchReply struct {
	proc Process
	err  error
}

func newLauncher() *launcher {
	l := &launcher{requests: make(chan launchRequest), ended: make(chan struct{})}
	go l.run()
	return l
}

// run lives until close. The goroutine ends locked, so its thread ends with it: what is still alive
// then gets its parent-death signal.
func (l *launcher) run() {
	defer close(l.ended)
	runtime.LockOSThread()
	for req := range l.requests {
		proc, err := req.start()
		req.reply <- launchReply{proc, err}
	}
}

// do runs start on the thread. When ctx ends before its turn has come nothing is started. Once begun
// it is waited for: a start takes less than a millisecond as a rule, and what it started must not be
// forgotten.
func (l *launcher) do(ctx context.Context, start func() (Process, error)) (Process, error) {
	req := launchRequest{start, make(chan launchReply, 1)}
	select {
	case l.requests <- req:
	case <-ctx.Done():
		return nil, contextError(ctx)
	}
	reply := <-req.reply
	return reply.proc, reply.err
}

// close ends the thread and waits for it. Nobody may call do any more.
func (l *launcher) close() {
	close(l.requests)
	<-l.ended
}
