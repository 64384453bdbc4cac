package forkspawn_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/spawnwire/spawnwire/forkspawn"
	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/transport"
)

// What a hostile process does to a socket, in a process of its own. None of it uses the library but where that makes the bytes
// of a good hello.

func init() {
	moreRoles["attacker"] = playAttacker
	moreRoles["bystander"] = playBystander
}

// attack says what a process in the role "attacker" is to do.
type attack struct {
	How  string
	Addr transport.Addr
	For  time.Duration
	Say  []byte // a hello, for those who say one
}

// damage is what it has done: connections made, and those that could not be made.
type damage struct{ Connects, Failed int64 }

// attackEnv is where the attacker finds the attack.
const attackEnv = "SPAWNWIRE_TEST_ATTACK"

// attacker is one in its process.
type attacker struct {
	attack
	damage
}

func playAttacker(ctx context.Context) error {
	var a attacker
	if err := json.Unmarshal([]byte(os.Getenv(attackEnv)), &a.attack); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), a.For)
	defer cancel()
	go func() { // the test's end is the attack's
		io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	var wg sync.WaitGroup
	workers := map[string]int{
		"silent": 1000, "drip": 200, "huge": 8, "hello": 4, "flood": 16, "descriptors": 100, "half": 8, "junk": 16,
	}[a.How]
	for i := range workers {
		wg.Go(func() { a.work(ctx, i, workers) })
	}
	wg.Wait()
	return json.NewEncoder(os.Stdout).Encode(a.damage)
}

// work makes one connection after the other.
func (a *attacker) work(ctx context.Context, worker, workers int) {
	began := time.Now()
	for n := 0; ctx.Err() == nil; n++ {
		if a.How == "flood" { // 10,000 in a second, or as many as can be
			at := began.Add(time.Duration(n*workers+worker) * 100 * time.Microsecond)
			select {
			case <-time.After(time.Until(at)):
			case <-ctx.Done():
			}
		}
		conn, err := new(net.Dialer).DialContext(ctx, a.Addr.Network(), a.Addr.Target)
		if err != nil {
			if ctx.Err() == nil {
				atomic.AddInt64(&a.Failed, 1)
				time.Sleep(time.Millisecond)
			}
			continue
		}
		atomic.AddInt64(&a.Connects, 1)
		stop := context.AfterFunc(ctx, func() { conn.Close() })
		a.disturb(ctx, conn, n)
		stop()
		conn.Close()
	}
}

// disturb does to one connection what is to be done.
func (a *attacker) disturb(ctx context.Context, conn net.Conn, n int) {
	switch a.How {
	case "silent":
	case "flood":
		return
	case "drip":
		hello := frameOf(transport.KindHello, make([]byte, handshake.PreAuthLimit-1))
		for i := range hello {
			if _, err := conn.Write(hello[i : i+1]); err != nil {
				return
			}
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
				return
			}
		}
	case "huge":
		conn.Write(append([]byte{0xff, 0xff, 0xff, 0xff, byte(transport.KindHello)}, make([]byte, 64<<10)...))
	case "hello":
		conn.Write(a.Say)
	case "half":
		if tcp, ok := conn.(*net.TCPConn); ok && n%2 == 0 {
			tcp.SetLinger(0) // it is reset
			return
		}
		conn.(interface{ CloseWrite() error }).CloseWrite()
	case "junk":
		b := make([]byte, 32<<10)
		if n%2 == 0 {
			b = frameOf(transport.KindExtension, b) // which is skipped, for a while
		} else {
			for i := range b {
				b[i] = byte(rand.Uint32())
			}
		}
		for {
			if _, err := conn.Write(b); err != nil {
				return
			}
		}
	case "descriptors":
		null, err := os.Open(os.DevNull)
		if err != nil {
			return
		}
		defer null.Close()
		fds := make([]int, 100)
		for i := range fds {
			fds[i] = int(null.Fd())
		}
		hello := frameOf(transport.KindHello, make([]byte, handshake.PreAuthLimit-1))
		for i := range hello {
			if _, _, err := conn.(*net.UnixConn).WriteMsgUnix(hello[i:i+1], syscall.UnixRights(fds...), nil); err != nil {
				return
			}
			select {
			case <-time.After(10 * time.Millisecond):
			case <-ctx.Done():
				return
			}
		}
	}
	io.Copy(io.Discard, conn) // until it is dropped
}

func frameOf(kind transport.Kind, body []byte) []byte {
	b := binary.LittleEndian.AppendUint32(nil, uint32(len(body)+1))
	return append(append(b, byte(kind)), body...)
}

// playBystander has a socket of its own, on which it spawns nobody.
func playBystander(context.Context) error {
	var listen transport.Addr
	if text := os.Getenv(attackEnv); text != "" {
		if err := listen.UnmarshalText([]byte(text)); err != nil {
			return err
		}
	}
	s, err := forkspawn.New(forkspawn.Config{Listen: listen})
	if err != nil {
		return err
	}
	defer s.Close()
	fmt.Println(s.Addr())
	io.Copy(io.Discard, os.Stdin)
	return nil
}

// helper is a process in a role that lives until stop, or as long as it wants.
type helper struct {
	cmd    *exec.Cmd
	stdin  io.Closer
	stdout io.Reader
}

func startHelper(t testing.TB, name, env string) *helper {
	t.Helper()
	cmd := role(name)
	h := &helper{cmd: exec.Command(cmd.Path)}
	h.cmd.Env = append(cmd.Env, attackEnv+"="+env)
	h.cmd.Stderr = os.Stderr
	var err error
	h.stdin, err = h.cmd.StdinPipe()
	require.NoError(t, err)
	h.stdout, err = h.cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, h.cmd.Start())
	t.Cleanup(func() {
		h.stdin.Close()
		h.cmd.Wait() // a second one is an error and no harm
	})
	return h
}

// stop ends it.
func (h *helper) stop(t testing.TB) {
	t.Helper()
	h.stdin.Close()
	require.NoError(t, h.cmd.Wait())
}

// startAttack starts an attack in a process of its own.
func startAttack(t testing.TB, a attack) *helper {
	t.Helper()
	text, err := json.Marshal(a)
	require.NoError(t, err)
	return startHelper(t, "attacker", string(text))
}

// damage waits for the end of an attack.
func (h *helper) damage(t testing.TB) (d damage) {
	t.Helper()
	h.stdin.Close()
	require.NoError(t, json.NewDecoder(h.stdout).Decode(&d))
	require.NoError(t, h.cmd.Wait())
	return d
}
