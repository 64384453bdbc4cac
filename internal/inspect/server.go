package inspect

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/spawnwire/spawnwire/internal/frame"
)

// maxBound is the longest time that an answer may take. A CPU profile takes its own
// time, too.
const maxBound = 10 * time.Minute

// partBound is how long the parent may take to ask for the next part, and how long the
// writing of a part may take. The socket has room for all parts under way.
const partBound = time.Second

// Server answers the questions on a child's control connection. Its fields are set
// before the first Handle.
type Server struct {
	Context context.Context // ends the answers under way
	Go      func(func())    // starts a goroutine, whose end the owner waits for
	Answer  func(context.Context, frame.Inspect) ([]byte, error)
	Write   func(context.Context, frame.Frame) error

	mu   sync.Mutex               // guards open
	open map[uint64]chan struct{} // by id of the question: gets a value for each part
}

// Handle handles an inspect frame. It returns at once, because the caller also waits
// for a request to stop. It drops a question that the protocol does not allow.
func (s *Server) Handle(body []byte) {
	q, err := frame.ParseInspect(body)
	if err != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	next, there := s.open[q.ID]
	switch {
	case there:
		select {
		case next <- struct{}{}:
		default:
		}
	case len(s.open) < frame.MaxInspections:
		if s.open == nil {
			s.open = make(map[uint64]chan struct{})
		}
		next = make(chan struct{}, 1)
		s.open[q.ID] = next
		s.Go(func() { s.serve(q, next) })
	}
}

// serve makes the answer and sends its parts as the parent asks for them.
func (s *Server) serve(q frame.Inspect, next <-chan struct{}) {
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.open, q.ID)
	}()
	var answer []byte
	err := errors.New("the answer is not there any more")
	if q.What != "" {
		ctx, cancel := context.WithTimeout(s.Context, min(q.Bound, maxBound)+q.Time)
		answer, err = s.Answer(ctx, q)
		cancel()
	}
	if err != nil {
		s.send(frame.Inspected{ID: q.ID, Error: err.Error()})
		return
	}
	for {
		n := min(len(answer), frame.MaxPart)
		part := frame.Inspected{ID: q.ID, Part: answer[:n], Left: uint64(len(answer) - n)}
		answer = answer[n:]
		if s.send(part) != nil || part.Left == 0 {
			return
		}
		timer := time.NewTimer(partBound)
		select {
		case <-next:
			timer.Stop()
		case <-timer.C:
			return
		case <-s.Context.Done():
			timer.Stop()
			return
		}
	}
}

// send sends a part. Its bound does not end with the Context, because a frame that is
// cut would end the connection.
func (s *Server) send(part frame.Inspected) error {
	ctx, cancel := context.WithTimeout(context.Background(), partBound)
	defer cancel()
	return s.Write(ctx, part.Frame())
}
