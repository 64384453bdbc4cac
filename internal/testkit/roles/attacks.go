//go:build unix

package roles

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spawnwire/spawnwire/internal/access"
	"github.com/spawnwire/spawnwire/internal/frame"
	"github.com/spawnwire/spawnwire/internal/testkit"
	"github.com/spawnwire/spawnwire/internal/wait"
	"github.com/spawnwire/spawnwire/transport"
)

// Attack is the task of the role attacks: a hostile process and a socket. The
// role does not use the library, except for the bytes of a valid hello.
type Attack struct {
	How  string // a key of attackers
	Addr transport.Addr
	For  time.Duration
	Say  []byte // a hello, for an attack that sends one
}

// Damage is the result of an attack. The process prints it as JSON.
type Damage struct{ Connects, Failed int64 }

// AttackEnv is the environment variable with the Attack, as JSON.
const AttackEnv = "SPAWNWIRE_TEST_ATTACK"

// attackers is how many goroutines make an attack.
var attackers = map[string]int{
	"silent": 1000, "drip": 200, "huge": 8, "hello": 4,
	"flood": 16, "descriptors": 100, "half": 8, "junk": 16,
}

// attacks makes an attack until the end of its time or of stdin. The time begins
// with the first connection, and the end of stdin ends nothing before it. So a busy
// machine makes an attack, too.
func attacks(context.Context) error {
	var a attacker
	if err := json.Unmarshal([]byte(os.Getenv(AttackEnv)), &a.Attack); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	connected, tried := make(chan struct{}), make(chan struct{})
	a.connected = sync.OnceFunc(func() {
		close(connected)
		time.AfterFunc(a.For, cancel)
	})
	a.tried = sync.OnceFunc(func() { close(tried) })
	go func() {
		io.Copy(io.Discard, os.Stdin)
		wait.For(ctx, connected, testkit.Patience)
		wait.For(ctx, tried, time.Second) // some attacks go on until the end
		cancel()
	}()
	var wg sync.WaitGroup
	for i := range attackers[a.How] {
		wg.Go(func() { a.work(ctx, i) })
	}
	wg.Wait()
	return json.NewEncoder(os.Stdout).Encode(a.Damage)
}

// attacker is an attack and its result so far.
type attacker struct {
	Attack
	Damage
	connected func() // after a connect
	tried     func() // after an attack over a connection
}

// work makes one connection after the other.
func (a *attacker) work(ctx context.Context, worker int) {
	began := time.Now()
	for n := 0; ctx.Err() == nil; n++ {
		if a.How == "flood" { // 10,000 connects per second, or as many as the machine can
			at := began.Add(time.Duration(n*attackers[a.How]+worker) * 100 * time.Microsecond)
			sleep(ctx, time.Until(at))
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
		a.connected()
		stop := context.AfterFunc(ctx, func() { conn.Close() })
		a.disturb(ctx, conn, n)
		stop()
		conn.Close()
		a.tried()
	}
}

// disturb attacks over one connection.
func (a *attacker) disturb(ctx context.Context, conn net.Conn, n int) {
	switch a.How {
	case "silent":
	case "flood":
		return
	case "drip":
		hello := frameOf(frame.KindHello, make([]byte, access.PreAuthLimit-1))
		for i := range hello {
			if _, err := conn.Write(hello[i : i+1]); err != nil || !sleep(ctx, time.Second) {
				return
			}
		}
	case "huge":
		conn.Write(append([]byte{0xff, 0xff, 0xff, 0xff, byte(frame.KindHello)},
			make([]byte, 64<<10)...))
	case "hello":
		conn.Write(a.Say)
	case "half":
		if tcp, ok := conn.(*net.TCPConn); ok && n%2 == 0 {
			tcp.SetLinger(0) // so that closing resets it
			return
		}
		conn.(interface{ CloseWrite() error }).CloseWrite()
	case "junk":
		writeJunk(conn, n)
		return
	case "descriptors":
		sendDescriptors(ctx, conn.(*net.UnixConn))
		return
	}
	io.Copy(io.Discard, conn) // until the other side closes it
}

// writeJunk writes frames of an unknown kind, or random bytes, until the other
// side closes the connection.
func writeJunk(conn net.Conn, n int) {
	b := make([]byte, 32<<10)
	if n%2 == 0 {
		b = frameOf(frame.KindExtension, b)
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
}

// sendDescriptors sends 100 descriptors with each byte of a hello.
func sendDescriptors(ctx context.Context, conn *net.UnixConn) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return
	}
	defer null.Close()
	fds := make([]int, 100)
	for i := range fds {
		fds[i] = int(null.Fd())
	}
	hello := frameOf(frame.KindHello, make([]byte, access.PreAuthLimit-1))
	for i := range hello {
		_, _, err := conn.WriteMsgUnix(hello[i:i+1], syscall.UnixRights(fds...), nil)
		if err != nil || !sleep(ctx, 10*time.Millisecond) {
			return
		}
	}
	io.Copy(io.Discard, conn)
}

// sleep reports whether the context did not end meanwhile.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

func frameOf(kind frame.Kind, body []byte) []byte {
	b := binary.LittleEndian.AppendUint32(nil, uint32(len(body)+1))
	return append(append(b, byte(kind)), body...)
}
