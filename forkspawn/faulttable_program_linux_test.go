package forkspawn_test

import (
	"context"
	"io"
	"os"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/internal/monotime"
)

// start returns the options of a case. The child gets the writing end of a pipe, and
// allClosed fails if anybody keeps it. A child on TCP gets none: with a file it
// would be executed and not forked.
func (b *faultBench) start(number string, c faultCase, v *verdict) (
	opts []forkspawn.Option, allClosed func()) {
	program, err := os.Executable()
	assert.NoError(v, err)
	cmd := forkspawn.Command{Path: program}
	switch c.point {
	case atStart:
		cmd = forkspawn.Command{Path: "sh", Args: []string{"-c", shellFault(c.fault), program}}
	case programStarts, programRuns:
		script, next := shellFault(c.fault), []string{"cat"} // it ends, as its stdin is empty
		if c.point == programRuns {
			script, next = "echo "+readyLine+"; "+script, []string{"sleep", "300"}
		}
		cmd = forkspawn.Command{Path: "sh", Args: append([]string{"-c", script}, next...)}
	}
	cmd.Env = append(os.Environ(), faultEnv+"="+string(c.point)+"/"+string(c.fault),
		reportEnv+"="+number+" "+b.fifo.Name())
	allClosed = func() {}
	if c.net == "uds" {
		r, w, err := os.Pipe()
		if assert.NoError(v, err) {
			cmd.Files = map[string]*os.File{"pipe": w}
			allClosed = func() { v.pipeEnds(r, w) }
		}
	}
	if c.program() {
		return []forkspawn.Option{
			forkspawn.WithProgram(cmd), forkspawn.ReadyOnOutput(readyLine)}, allClosed
	}
	return []forkspawn.Option{forkspawn.WithCommand(cmd)}, allClosed
}

// pipeEnds closes w, which must be the last writing end of the pipe.
func (v *verdict) pipeEnds(r, w *os.File) {
	defer r.Close()
	assert.NoError(v, w.Close(), "the library has not closed the caller's file")
	r.SetReadDeadline(time.Now().Add(bound))
	_, err := r.Read(make([]byte, 1))
	assert.Equal(v, io.EOF, err, "somebody has kept the file of the child")
}

// checkProgram checks and stops a ready program. It returns the time from the fault to the
// end, or the time of Stop.
func (b *faultBench) checkProgram(ctx context.Context, want outcome, child *forkspawn.Child,
	began int64, v *verdict) (d time.Duration) {
	defer child.Kill()
	assert.NotEqual(v, never, want.ready, "it becomes ready")
	if want.status.Known() {
		status, err := child.Wait(ctx)
		d = time.Duration(monotime.Now() - began)
		assert.NoError(v, err)
		assert.Equal(v, want.status, status, "status")
		if err := child.Err(); err != nil {
			v.text = err.Error()
		}
		assert.Contains(v, v.text, want.text)
		assert.Equal(v, status.Success(), child.Err() == nil)
		want.stop = forkspawn.StopResult{By: forkspawn.AlreadyEnded, Status: want.status}
	}
	result, err := child.Stop(ctx)
	assert.NoError(v, err)
	assert.Equal(v, want.stop.By, result.By, "how Stop ended it")
	assert.Equal(v, want.stop.Status, result.Status, "status")
	v.checkTail(want, child.StderrTail())
	if v.text == "" {
		v.text = "stopped: " + result.String()
	}
	return max(d, result.Elapsed)
}
