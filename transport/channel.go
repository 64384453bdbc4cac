package transport

import (
	"cmp"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spawnwire/spawnwire/internal/access"
	"github.com/spawnwire/spawnwire/internal/frame"
)

// DefaultMaxFrameSize is Config.MaxFrameSize if that is 0.
const DefaultMaxFrameSize = 16 << 20

// maxMaxFrameSize keeps a frame's length within an int on 32-bit machines.
const maxMaxFrameSize = 1<<31 - 1

// Config has the settings of a Channel. The zero value is ready to use.
type Config struct {
	// MaxFrameSize is the largest frame, in bytes, that the channel sends and
	// receives. The frame's kind and body count. 0 means DefaultMaxFrameSize.
	MaxFrameSize int

	// DeadAfter is how long the machine of the peer may be silent, if the connection
	// is TCP, or TLS over TCP, to another machine. Zero is DefaultDeadAfter. After
	// that the channel has ended, with an [ErrPeerGone].
	//
	// Kernels acknowledge also for a process that is stopped or starved, so such a
	// peer is not taken for dead. While nothing is sent, the kernel probes the
	// peer's (keep-alive in tcp(7)), with whole seconds and no less than 2. While
	// something is unacknowledged, Linux only keeps the bound. Other systems then
	// keep their own, which is minutes.
	DeadAfter time.Duration
}

// DefaultDeadAfter is the bound on the silence of another machine.
const DefaultDeadAfter = 3 * time.Second

// Channel carries whole messages over a connection. [New] makes one, and Close or
// Abort must end it.
//
// All methods may be called concurrently. Concurrent sends are written in the order
// of their calls, each frame as a whole. Concurrent receives take turns, one message
// each. A channel has no goroutine of its own, unless it uses a ring: the goroutine that calls
// Recv reads the socket.
//
// If a receive ends early, the message stays for the next receive. This is so when
// its context ends, the message is of the other kind, or the buffer is too small. If
// a send ends early, it has written nothing, or this and every later send fails
// with [ErrBroken].
//
// Every error of an operation is an [*Error].
type Channel struct {
	// Set by New.
	conn   net.Conn
	below  net.Conn      // the connection under conn, if conn is a TLS connection; else nil
	closed chan struct{} // closed just before the connection is
	death  *deathWatch   // nil if the peer is on this machine

	// For all goroutines.
	maxFrameSize atomic.Int64
	closing      atomic.Bool // set by the first Close, Abort or Take
	taken        atomic.Bool // set by Take
	abort        sync.Once
	pings        pings
	shared       atomic.Pointer[sharing] // nil unless both sides have agreed on it
	ring         atomic.Pointer[ring]    // nil unless both sides have agreed on it
	lentShared   atomic.Bool             // RecvBorrowed has lent shared memory

	// Read state, for the goroutine that holds rd.turn.
	rd       reader
	onCancel func(frame.Cancel) // set before the first receive

	// Write state, for the goroutine of the place that leads wr.queue.
	wr writer
}

// New makes a Channel that uses conn. From now on only the channel may read, write,
// set deadlines on or close conn. New does not read or write. A TLS connection must
// have finished its handshake.
func New(conn net.Conn, cfg Config) *Channel {
	c := &Channel{conn: conn, below: below(conn), closed: make(chan struct{})}
	conn.SetReadDeadline(time.Time{}) // there may be one from a dial or a TLS handshake
	conn.SetWriteDeadline(time.Time{})
	c.setMaxFrameSize(cfg.MaxFrameSize)
	c.rd.init(conn, c.setReadDeadline)
	c.wr.init(conn, c.setWriteDeadline)
	if c.wr.plain {
		c.useRaw(conn)
	}
	c.death = watchDeath(cmp.Or(c.below, conn), cfg.DeadAfter)
	return c
}

func (c *Channel) setMaxFrameSize(size int) {
	if size <= 0 {
		size = DefaultMaxFrameSize
	}
	c.maxFrameSize.Store(int64(min(size, maxMaxFrameSize)))
}

// MaxFrameSize returns the largest frame, in bytes, that the channel sends and
// receives.
func (c *Channel) MaxFrameSize() int { return int(c.maxFrameSize.Load()) }

// NetConn returns the channel's connection, for example to ask for the peer's
// address or credentials. Reads, writes and deadlines on it spoil the channel.
func (c *Channel) NetConn() net.Conn { return c.conn }

// Frames gives access to single frames. Only this module can call it.
func (c *Channel) Frames(access.Key) frame.Channel { return frames{c} }

// frames implements frame.Channel.
type frames struct{ c *Channel }

func (f frames) SetMaxSize(bytes int)              { f.c.setMaxFrameSize(bytes) }
func (f frames) SetDeadAfter(d time.Duration)      { f.c.death.set(d) }
func (f frames) OnCancel(asked func(frame.Cancel)) { f.c.onCancel = asked }

// below returns the connection under a TLS connection, or nil.
func below(conn net.Conn) net.Conn {
	if over, ok := conn.(interface{ NetConn() net.Conn }); ok {
		return over.NetConn()
	}
	return nil
}
