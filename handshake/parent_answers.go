package handshake

import (
	"context"
	"encoding/binary"
	"sync"

	"github.com/spawnwire/spawnwire/internal/frame"
	"github.com/spawnwire/spawnwire/internal/neterr"
	"github.com/spawnwire/spawnwire/transport"
)

// answers receives a child's answers on its control connection. No goroutine reads
// there all the time: those that wait for an answer take turns, and hand over what is
// for another one. Its methods may be called concurrently.
type answers struct {
	ch   *transport.Channel
	turn chan struct{} // holds one value while a goroutine reads

	mu sync.Mutex // guards what follows; never held over input or output
	id uint64     // of the last question
	// by id: where the answer goes. An entry stays until the answer comes, also if
	// nobody waits for it any more.
	waiting     map[uint64]chan frame.Frame
	inspections int            // those in waiting and those that begin
	bye         *frame.Goodbye // if it has come
}

// controlAnswers returns the answers of the control connection, or nil if there is no
// such connection.
func (p *Peer) controlAnswers() *answers {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.answers == nil && p.control != nil {
		p.answers = &answers{ch: p.control, turn: make(chan struct{}, 1),
			waiting: make(map[uint64]chan frame.Frame)}
	}
	return p.answers
}

// next returns the id of a new question.
func (a *answers) next() uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.id++
	return a.id
}

// begin counts an inspection. If the child is behind with others, it waits for their
// answers. So a child that is stopped gets a bounded number of them.
func (a *answers) begin(ctx context.Context) error {
	for {
		a.mu.Lock()
		room := a.inspections < frame.MaxInspections
		if room {
			a.inspections++
		}
		a.mu.Unlock()
		if room {
			return nil
		}
		select {
		case <-ctx.Done():
			return neterr.Context(ctx)
		case a.turn <- struct{}{}:
		}
		err := a.read(ctx)
		<-a.turn
		if err != nil {
			return err
		}
	}
}

// exchange sends a question and returns the answer.
func (a *answers) exchange(
	ctx context.Context, id uint64, question frame.Frame,
) (frame.Frame, error) {
	answer := make(chan frame.Frame, 1)
	a.mu.Lock()
	a.waiting[id] = answer
	a.mu.Unlock()
	if err := frames(a.ch).Write(ctx, question); err != nil {
		a.hand(id, frame.Frame{Kind: question.Kind})
		return frame.Frame{}, err
	}
	for {
		select {
		case f := <-answer:
			return f, nil
		default:
		}
		select {
		case f := <-answer:
			return f, nil
		case <-ctx.Done():
			return frame.Frame{}, neterr.Context(ctx)
		case a.turn <- struct{}{}:
		}
		err := error(nil)
		if len(answer) == 0 { // otherwise it came before the turn
			err = a.read(ctx)
		}
		<-a.turn
		if err != nil && len(answer) == 0 {
			return frame.Frame{}, err
		}
	}
}

// goodbye returns the child's goodbye. ok is false at the end of ctx or of the
// connection.
func (a *answers) goodbye(ctx context.Context) (bye frame.Goodbye, ok bool) {
	for {
		select {
		case a.turn <- struct{}{}:
		case <-ctx.Done():
			return bye, false
		}
		a.mu.Lock()
		said := a.bye
		a.mu.Unlock()
		err := error(nil)
		if said == nil {
			err = a.read(ctx)
		}
		<-a.turn
		if said != nil {
			return *said, true
		}
		if err != nil {
			return bye, false
		}
	}
}

// read reads one frame. The caller has the turn. Other kinds than those of answers are
// ignored, because the child's first connection decides.
func (a *answers) read(ctx context.Context) error {
	f, err := frames(a.ch).Read(ctx)
	if err != nil {
		return err
	}
	switch f.Kind {
	case frame.KindPong:
		if len(f.Body) == 8 {
			a.hand(binary.BigEndian.Uint64(f.Body), frame.Frame{Kind: f.Kind})
		}
	case frame.KindInspected:
		if part, err := frame.ParseInspected(f.Body); err == nil {
			a.hand(part.ID, f.Copy())
		}
	case frame.KindGoodbye:
		if bye, err := frame.ParseGoodbye(f.Body); err == nil {
			a.mu.Lock()
			a.bye = &bye
			a.mu.Unlock()
		}
	}
	return nil
}

// hand ends the wait for an answer.
func (a *answers) hand(id uint64, f frame.Frame) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if answer, ok := a.waiting[id]; ok {
		delete(a.waiting, id)
		if f.Kind != frame.KindPong && f.Kind != frame.KindPing {
			a.inspections--
		}
		answer <- f // it has room for one
	}
}
