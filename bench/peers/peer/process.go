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

// serveEnv makes this program the other process of a peer. It holds a serveOrder as JSON.
const serveEnv = "PEERS_SERVE"

// serveOrder is what the other process is told.
type serveOrder struct {
	Peer   string `json:"peer"`
	Job    Job    `json:"job"`
	Parent int    `json:"parent"` // process id
	Dir    string `json:"dir"`    // for its socket
}

// Ready is how a server says where it is.
type Ready struct {
	dir string
}

// Init makes this process the other one of a pair if it was started as such, and exits then. Call it first thing in
// main, and in TestMain.
func Init() {
	initSpawnwire()
	text, ok := os.LookupEnv(serveEnv)
	if !ok {
		return
	}
	var order serveOrder
	err := json.Unmarshal([]byte(text), &order)
	if err == nil {
		go exitWithParent(order.Parent)
		var p Peer
		if p, err = Find(order.Peer); err == nil {
			err = p.Serve(order.Job, Ready{order.Dir})
		}
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "peers: the other process of %s: %v\n", order.Peer, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// exitWithParent ends this process when its parent has ended, in whatever way.
func exitWithParent(parent int) {
	for os.Getppid() == parent {
		time.Sleep(250 * time.Millisecond)
	}
	os.Exit(125)
}

// Listen listens where the job says, and tells the caller's process the address.
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

// Accept waits for the caller's one connection.
func (r Ready) Accept(job Job) (net.Conn, error) {
	ln, err := r.Listen(job)
	if err != nil {
		return nil, err
	}
	defer ln.Close()
	return ln.Accept()
}

// serveAll serves n connections, each in a goroutine of its own, until all have ended.
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

// Path is where a Unix socket may be made.
func (r Ready) Path() string { return filepath.Join(r.dir, "s") }

// At tells the caller's process where to connect: it waits for this line.
func (r Ready) At(addr string) error {
	_, err := fmt.Println(addr)
	return err
}

// server is the other process, from the caller's side.
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
	order, err := json.Marshal(serveOrder{Peer: p.Name(), Job: job, Parent: os.Getpid(), Dir: dir})
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), serveEnv+"="+string(order))
	cmd.Stderr = os.Stderr
	return cmd, nil
}

// start starts the other process of p and waits until it says where it is.
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
		s.cmd.Process.Kill() // it holds nothing that would have to be put in order
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

// closer closes the connection, then ends the process, once.
func closer(conn io.Closer, s *server) func() error {
	return sync.OnceValue(func() error {
		conn.Close()
		return s.Close()
	})
}
