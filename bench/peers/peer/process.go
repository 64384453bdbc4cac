package peer

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// serveEnv makes this program the other process of a peer. It has a serveTask as
// JSON.
const serveEnv = "PEERS_SERVE"

// serveTask is the task of the other process.
type serveTask struct {
	Peer   string `json:"peer"`
	Job    Job    `json:"job"`
	Parent int    `json:"parent"` // pid
	Dir    string `json:"dir"`    // for its socket
}

// Ready announces the address of the other process.
type Ready struct {
	dir string
}

// Init serves and exits if this process was started as the other one of a pair.
// Call it first in main and in TestMain.
func Init() {
	initSpawnwire()
	text, ok := os.LookupEnv(serveEnv)
	if !ok {
		return
	}
	var task serveTask
	err := json.Unmarshal([]byte(text), &task)
	if err == nil {
		go exitWithParent(task.Parent)
		var p Peer
		if p, err = Find(task.Peer); err == nil {
			err = serveAllocs(task.Dir)
		}
		if err == nil {
			err = p.Serve(task.Job, Ready{task.Dir})
		}
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "peers: the other process of %s: %v\n", task.Peer, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// exitWithParent exits when the parent has ended.
func exitWithParent(parent int) {
	for os.Getppid() == parent {
		time.Sleep(250 * time.Millisecond)
	}
	os.Exit(125)
}

// Listen listens on the job's network and announces the address.
func (r Ready) Listen(job Job) (net.Listener, error) {
	ln, err := r.listen(job)
	if err != nil {
		return nil, err
	}
	return ln, r.At(ln.Addr().String())
}

func (r Ready) listen(job Job) (net.Listener, error) {
	if job.Network == "tcp" {
		return net.Listen("tcp", "127.0.0.1:0")
	}
	return net.Listen("unix", r.Path())
}

// Accept listens and accepts one connection.
func (r Ready) Accept(job Job) (net.Conn, error) {
	ln, err := r.Listen(job)
	if err != nil {
		return nil, err
	}
	defer ln.Close()
	return ln.Accept()
}

// serveAll serves n connections concurrently until all have ended.
func serveAll(ln net.Listener, n int, serve func(net.Conn) error) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	for range n {
		conn, err := ln.Accept()
		if err != nil {
			return err
		}
		wg.Go(func() {
			defer conn.Close()
			if err := untilClosed(serve(conn)); err != nil {
				fmt.Fprintln(os.Stderr, "peers: a connection:", err)
			}
		})
	}
	return nil
}

// Path returns the path for a Unix socket.
func (r Ready) Path() string { return filepath.Join(r.dir, "s") }

// At announces addr: it prints it to stdout, where the caller waits for it.
func (r Ready) At(addr string) error {
	_, err := fmt.Println(addr)
	return err
}

// server is the other process as the caller sees it.
type server struct {
	addr string
	cmd  *exec.Cmd
	dir  string
}

// command returns the command that makes this program the other process of p.
func command(p Peer, job Job, dir string) (*exec.Cmd, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	task, err := json.Marshal(serveTask{Peer: p.Name(), Job: job, Parent: os.Getpid(), Dir: dir})
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), serveEnv+"="+string(task))
	cmd.Stderr = os.Stderr
	return cmd, nil
}

// start starts the other process of p and waits until it announces its address.
func start(ctx context.Context, p Peer, job Job) (_ *server, err error) {
	dir, err := os.MkdirTemp("", "peers-")
	if err != nil {
		return nil, err
	}
	s := &server{dir: dir}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("start of the other process: %w", err), s.Close())
		}
	}()
	cmd, err := command(p, job, dir)
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
	s.cmd = cmd
	defer context.AfterFunc(ctx, func() { cmd.Process.Kill() })()
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return nil, errors.Join(err, context.Cause(ctx))
	}
	s.addr = strings.TrimSpace(line)
	return s, nil
}

// dial connects to the other process.
func (s *server) dial(ctx context.Context, job Job) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, job.Network, s.addr)
}

// Close ends the process and removes its directory.
func (s *server) Close() error {
	var err error
	if s.cmd != nil {
		s.cmd.Process.Kill() // it has nothing to clean up
		err = s.cmd.Wait()
		var ended *exec.ExitError
		if errors.As(err, &ended) {
			err = nil
		}
	}
	return errors.Join(err, os.RemoveAll(s.dir))
}

// open starts the other process of p and connects to it.
func open(ctx context.Context, p Peer, job Job) (*server, net.Conn, error) {
	s, err := start(ctx, p, job)
	if err != nil {
		return nil, nil, err
	}
	conn, err := s.dial(ctx, job)
	if err != nil {
		return nil, nil, errors.Join(err, s.Close())
	}
	return s, conn, nil
}

// closer returns a function that closes conn and then s. Only its first call does
// something.
func closer(conn io.Closer, s *server) func() error {
	return sync.OnceValue(func() error {
		conn.Close()
		return s.Close()
	})
}
