package call

import (
	"context"
	"errors"
	"iter"
	"sync"
	"time"

	"github.com/spawnwire/spawnwire/internal/wait"
)

// MapConfig has the settings of [Map]. The zero value is ready to use.
type MapConfig struct {
	// Parallel is how many requests are under way at a time, over all connections.
	// A request counts until the loop gets its result. 0 means 8 for each connection.
	Parallel int

	// Unordered gives each result to the loop as it comes. Without it, results
	// have the order of their requests.
	Unordered bool

	// Repeat decides, after the connection of a call has ended, whether the call is
	// made again on another one. It gets the index of the request, how many
	// connections have ended during it, and the error. So it limits how often a
	// request may kill a child. nil never repeats. Calls that did not begin, because
	// a side drains, are always made elsewhere. Repeat is called concurrently.
	Repeat func(index, ended int, err error) bool

	// Timeout is the time limit of each call. 0 is none. A call that does not end
	// within Config.CancelGrace after that counts as the end of its connection if
	// Open is set.
	Timeout time.Duration

	// Open makes connection number i of conns if that is nil, has ended or drains. So
	// it replaces a dead child. It has to end what it has made for i before. Map
	// never calls it concurrently for the same i. The caller closes the last ones.
	// An error of Open is that of the request.
	Open func(ctx context.Context, i int) (*Conn, error)
}

// Result is the outcome of one request of a [Map].
type Result[Resp any] struct {
	Index int // of the request, from 0
	Value Resp
	Err   error
}

// Map calls a method for each request, spread over connections, for example to the
// children of a group. Each request goes to the connection with the fewest calls of
// this Map. Map yields a result for each request, and an error does not end it.
//
// The loop's goroutine iterates over reqs. When the loop ends early, or ctx ends, the
// calls under way are cancelled, and the loop waits for them as [Unary.Call] does.
func Map[Req, Resp any](
	ctx context.Context, conns []*Conn, method *Unary[Req, Resp], reqs iter.Seq[Req],
	cfg MapConfig,
) iter.Seq[Result[Resp]] {
	if cfg.Parallel <= 0 {
		cfg.Parallel = 8 * max(1, len(conns))
	}
	return func(yield func(Result[Resp]) bool) {
		ctx, cancel := context.WithCancel(ctx)
		var calls sync.WaitGroup
		defer calls.Wait()
		defer cancel()
		next, stop := iter.Pull(reqs)
		defer stop()
		shared := &spread{open: cfg.Open, slots: make([]slot, len(conns))}
		for i, c := range conns {
			shared.slots[i].conn = c
		}
		results := make(chan Result[Resp], cfg.Parallel) // so that no call waits for the loop
		waiting := make(map[int]Result[Resp])            // for results of earlier requests
		begun, yielded, more := 0, 0, true
		for {
			for more && begun-yielded < cfg.Parallel {
				var req Req
				if req, more = next(); !more {
					break
				}
				index := begun
				begun++
				calls.Go(func() {
					value, err := callOne(ctx, shared, method, index, req, &cfg)
					results <- Result[Resp]{index, value, err}
				})
			}
			if begun == yielded {
				return
			}
			r := <-results
			if cfg.Unordered {
				yielded++
				if !yield(r) {
					return
				}
				continue
			}
			waiting[r.Index] = r
			for r, ok := waiting[yielded]; ok; r, ok = waiting[yielded] {
				delete(waiting, yielded)
				yielded++
				if !yield(r) {
					return
				}
			}
		}
	}
}

// errNoConnection is the error of a Map without a connection.
var errNoConnection = errors.New("no connection is open")

// callOne makes a call, maybe on several connections one after the other.
func callOne[Req, Resp any](
	ctx context.Context, s *spread, method *Unary[Req, Resp], index int, req Req, cfg *MapConfig,
) (value Resp, err error) {
	refused, ended := 0, 0
	for {
		i, c, err := s.take(ctx)
		if err != nil {
			return value, localError(method.name, CodeConnection, err)
		}
		value, err = callWithin(ctx, cfg.Timeout, c, method, req)
		stuck := cfg.Open != nil && errors.Is(err, ErrStillRunning)
		s.give(i, c, stuck)
		var e *Error
		switch {
		case !errors.As(err, &e):
			return value, err
		case errors.Is(err, ErrDraining):
			if refused++; refused > len(s.slots) {
				return value, err
			}
		case stuck, e.Code == CodeConnection:
			ended++
			if ctx.Err() != nil || cfg.Repeat == nil || !cfg.Repeat(index, ended, err) {
				return value, err
			}
		default:
			return value, err
		}
	}
}

// callWithin is Call with a time limit; 0 is none.
func callWithin[Req, Resp any](
	ctx context.Context, limit time.Duration, c *Conn, method *Unary[Req, Resp], req Req,
) (Resp, error) {
	if limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	return method.Call(ctx, c, req)
}

// spread counts the calls of a Map on each connection.
type spread struct {
	open func(context.Context, int) (*Conn, error) // or nil

	mu    sync.Mutex // guards slots; never held over a call of open
	slots []slot
}

// slot is a connection of a Map.
type slot struct {
	conn    *Conn         // nil if there is none yet
	busy    int           // calls
	opening chan struct{} // closed when open has returned; nil if it does not run
}

// usable reports whether calls can begin on the connection.
func (s *slot) usable() bool {
	return s.conn != nil && !wait.Closed(s.conn.dead) && !s.conn.drains()
}

// take returns the connection with the fewest calls, and makes it if necessary. give
// must follow, unless there is an error.
func (s *spread) take(ctx context.Context) (i int, c *Conn, err error) {
	s.mu.Lock()
	i = -1
	for k := range s.slots {
		if (s.open != nil || s.slots[k].usable()) && (i < 0 || s.slots[k].busy < s.slots[i].busy) {
			i = k
		}
	}
	if i < 0 {
		s.mu.Unlock()
		return i, nil, errNoConnection
	}
	at := &s.slots[i]
	at.busy++
	for at.opening != nil {
		opening := at.opening
		s.mu.Unlock()
		<-opening
		s.mu.Lock()
	}
	if !at.usable() && s.open != nil {
		opened := make(chan struct{})
		at.conn, at.opening = nil, opened
		s.mu.Unlock()
		c, err = s.open(ctx, i)
		s.mu.Lock()
		at.conn, at.opening = c, nil
		close(opened)
	}
	c = at.conn
	if err != nil {
		at.conn = nil
		at.busy--
	}
	s.mu.Unlock()
	return i, c, err
}

// give ends a call. With stuck the connection is used no more.
func (s *spread) give(i int, c *Conn, stuck bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.slots[i].busy--
	if stuck && s.slots[i].conn == c {
		s.slots[i].conn = nil
	}
}

// drains reports whether no calls can begin on the connection.
func (c *Conn) drains() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.draining || c.goneAway || c.state != stateOpen
}
