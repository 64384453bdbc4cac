package peer

import (
	"context"
	_ "embed"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"time"
)

// c is the floor below Go: a C program (cfloor/floor.c) in both processes, built
// with the system's compiler. If there is none, c does no jobs; see CompileC. The
// program measures the times itself. With ring the messages go through shared memory, and
// the processes wait in futex(2).
type c struct{ ring bool }

//go:embed cfloor/floor.c
var floorSource []byte

func (p c) Name() string {
	if p.ring {
		return "C, futex ring"
	}
	return "C"
}

func (c) Module() string { return "" }
func (c) Does(job Job) bool {
	return job.Network == "unix" && job.Work != Senders && !job.calls() && cProgram.err == nil
}

// cProgram is the compiled program, or the reason why there is none.
var cProgram = struct {
	path string
	err  error
}{err: errors.New("not compiled")}

// CompileC compiles the C floor into dir. If it is not called or fails, the C floor
// does no jobs.
func CompileC(ctx context.Context, dir string) error {
	cProgram.path, cProgram.err = compileC(ctx, dir)
	return cProgram.err
}

func compileC(ctx context.Context, dir string) (string, error) {
	compiler, err := exec.LookPath("cc")
	if err != nil {
		return "", err
	}
	source, program := filepath.Join(dir, "cfloor.c"), filepath.Join(dir, "cfloor")
	if err := os.WriteFile(source, floorSource, 0o600); err != nil {
		return "", err
	}
	if out, err := exec.CommandContext(ctx, compiler, "-O2", "-Wall", "-o", program,
		source).CombinedOutput(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", compiler, err, out)
	}
	return program, nil
}

// Serve returns an error, because the C program forks the other process itself.
func (c) Serve(Job, Ready) error {
	return errors.New("the program in C forks its other process itself")
}

func (p c) Open(_ context.Context, job Job) (Worker, error) {
	kind := "stream"
	if job.Work == RoundTrip {
		kind = "trip"
	}
	way := "socket"
	if p.ring {
		way = "ring"
	}
	cmd := exec.Command(cProgram.path, kind, strconv.Itoa(job.Size), way)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe() // the program exits at EOF, so also when this process ends
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &cWorker{job: job, cmd: cmd, in: in, out: out}, nil
}

type cWorker struct {
	job   Job
	cmd   *exec.Cmd
	in    io.WriteCloser
	out   io.Reader
	each  []time.Duration
	close sync.Once
}

func (w *cWorker) Run(n int) (Took, error) {
	if err := binary.Write(w.in, binary.NativeEndian, uint64(n)); err != nil {
		return Took{}, err
	}
	if w.job.Work == RoundTrip {
		w.each = append(w.each[:0], make([]time.Duration, n)...)
		var took time.Duration
		err := errors.Join(binary.Read(w.out, binary.NativeEndian, &took),
			binary.Read(w.out, binary.NativeEndian, w.each))
		return Took{Total: took, Each: w.each, Elsewhere: true}, err
	}
	var answer struct {
		Took time.Duration
		Got  report
	}
	if err := binary.Read(w.out, binary.NativeEndian, &answer); err != nil {
		return Took{}, err
	}
	all := uint64(n)
	if want := want(n, w.job.Size, all*(all-1)/2); answer.Got != want {
		return Took{}, fmt.Errorf("the receiver got %+v, want %+v", answer.Got, want)
	}
	return Took{Total: answer.Took, Elsewhere: true}, nil
}

func (w *cWorker) Close() error {
	w.close.Do(func() {
		w.in.Close()
		w.cmd.Process.Kill() // its child then reads EOF from their socket
		w.cmd.Wait()
	})
	return nil
}
