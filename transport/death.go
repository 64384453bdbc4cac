package transport

import (
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// deathWatch finds out that the machine of the peer is dead. There is one for each TCP
// connection to another machine. docs/design/102-death-of-a-machine.md has the reasons.
type deathWatch struct {
	conn *net.TCPConn
	dead atomic.Bool

	mu      sync.Mutex // guards what follows; held over system calls that do not block
	after   time.Duration
	timer   *time.Timer // calls look
	stopped bool
}

// watchDeath starts a deathWatch, or returns nil if conn does not lead to another machine.
func watchDeath(conn net.Conn, after time.Duration) *deathWatch {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return nil
	}
	if peer, ok := tcp.RemoteAddr().(*net.TCPAddr); !ok || peer.IP.IsLoopback() {
		return nil
	}
	w := &deathWatch{conn: tcp}
	w.set(after)
	return w
}

// set changes the bound. 0 is the default. w may be nil.
func (w *deathWatch) set(after time.Duration) {
	if w == nil {
		return
	}
	if after <= 0 {
		after = DefaultDeadAfter
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stopped {
		return
	}
	w.after = after
	w.conn.SetKeepAliveConfig(keepAlive(after)) // it fails only on a broken connection
	w.setRetries()
	w.plan(after / 2)
}

// keepAlive returns how the kernel probes an idle connection. The kernel counts seconds.
func keepAlive(after time.Duration) net.KeepAliveConfig {
	step := max(after/3, time.Second).Truncate(time.Second)
	return net.KeepAliveConfig{Enable: true, Idle: step, Interval: step,
		Count: max(1, int((after-step+step/2)/step))}
}

// stop ends the watch. w may be nil.
func (w *deathWatch) stop() {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stopped = true
	if w.timer != nil {
		w.timer.Stop()
	}
}

// isDead reports whether the watch has ended the connection. w may be nil.
func (w *deathWatch) isDead() bool { return w != nil && w.dead.Load() }
