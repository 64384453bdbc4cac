package handshake

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/spawnwire/spawnwire/internal/access"
	"github.com/spawnwire/spawnwire/internal/frame"
	"github.com/spawnwire/spawnwire/internal/neterr"
	"github.com/spawnwire/spawnwire/transport"
)

// Internal returns methods for this module only. See package internal/access.
func (p *Peer) Internal(access.Key) peerInternals { return peerInternals{p} }

// peerInternals are the methods of a Peer for package forkspawn.
type peerInternals struct{ p *Peer }

// Silent waits until the child answers a ping over its control connection, or until
// ctx ends. Then it returns true, also if the connection is still to come. At the
// end of ctx it returns false for a child without such a connection, or with one
// that was closed.
func (i peerInternals) Silent(ctx context.Context) bool {
	a := i.p.controlAnswers()
	if a == nil {
		<-ctx.Done()
		return i.p.attached != nil
	}
	id := a.next()
	ping := frame.Frame{Kind: frame.KindPing, Body: binary.BigEndian.AppendUint64(nil, id)}
	_, err := a.exchange(ctx, id, ping)
	if err != nil && ctx.Err() == nil {
		<-ctx.Done()
		return false
	}
	return err != nil
}

// errCannotAnswer is the error of Inspect for a child without a control connection, or
// one in a language whose library cannot answer.
var errCannotAnswer = errors.New("it does not answer inspections")

// Inspect asks the child over its control connection, and returns the whole answer of
// at most limit bytes. The id of q is set here. After the end of ctx a later answer is
// dropped.
func (i peerInternals) Inspect(
	ctx context.Context, q frame.Inspect, limit int,
) (answer []byte, err error) {
	if i.p.attached == nil || !i.p.inspects {
		return nil, errCannotAnswer
	}
	select {
	case <-i.p.attached: // a moment after it is ready
	case <-ctx.Done():
		return nil, neterr.Context(ctx)
	}
	a := i.p.controlAnswers()
	q.ID = a.next()
	for {
		if err := a.begin(ctx); err != nil {
			return nil, err
		}
		f, err := a.exchange(ctx, q.ID, q.Frame())
		if err != nil {
			return nil, err
		}
		part, err := frame.ParseInspected(f.Body)
		switch {
		case err != nil:
			return nil, fmt.Errorf("%w: %s: %v", transport.ErrProtocol, f.Kind, err)
		case part.Error != "":
			return nil, errors.New(part.Error)
		case part.Left > uint64(limit) || len(answer)+len(part.Part) > limit-int(part.Left):
			return nil, fmt.Errorf("an answer of more than %d bytes", limit)
		}
		answer = append(answer, part.Part...)
		if part.Left == 0 {
			return answer, nil
		}
		if len(part.Part) == 0 {
			return nil, fmt.Errorf("%w: %s: an empty part", transport.ErrProtocol, f.Kind)
		}
		q = frame.Inspect{ID: q.ID}
	}
}
