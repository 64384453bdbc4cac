//go:build amd64 || arm64

package template

import (
	"context"
	"net"
	"time"

	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/internal/access"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// Before a template is ready, it joins its parent once as its children will. A
// child then finds done what a process does once, and allocates where there is
// free memory already (docs/design/171-rehearsals.md). The rehearsal has no
// other effect, and its errors are ignored.

// rehearsalBound finds hangs.
const rehearsalBound = 5 * time.Second

// rehearsalFiles is the number of descriptors in the answer to replyRehearse:
// the ends of a message connection and of a control connection.
const rehearsalFiles = 2

// rehearse runs in the template. It asks the parent for a rehearsal and joins
// it. The parent's side is not in this process, because then every program
// would link it, and start slower.
func (s *server) rehearse() error {
	s.reply(reply{kind: replyRehearse}, -1)
	r, _, err := s.receive()
	if err != nil {
		return err
	}
	defer clear(s.request)
	if s.nFiles != rehearsalFiles {
		closeAll(s.files[:s.nFiles])
		return errMessage
	}
	pair := Pair{connector(s.files[0]), connector(s.files[1])}
	ticket, err := handshake.ParseTicket(string(r.ticket))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), rehearsalBound)
	defer cancel()
	return s.program.Join(ctx, ticket, pair)
}

// rehearse runs in the parent. The template gets an answer in any case.
func (t *process) rehearse(deadline time.Time) error {
	x, near, far, err := t.expectRehearsal()
	if err != nil {
		return t.send((&request{}).encode(), nil, deadline)
	}
	defer x.Cancel()
	ticket := x.Ticket()
	ticket.Addr = t.f.cfg.Addr
	r := request{ticket: []byte(ticket.Encode())}
	err = t.send(r.encode(), far[:], deadline)
	closeAll(far[:])
	x.Internal(access.Key{}).UsePair(near[0], near[1])
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(t.f.cfg.Context, rehearsalBound)
	defer cancel()
	if peer, err := x.WaitForPeer(ctx); err == nil {
		peer.Close()
	}
	return nil
}

func (t *process) expectRehearsal() (x *handshake.Expected, near [2]net.Conn,
	far [2]int, err error) {
	spec, err := spawnspec.Marshal(&spawnspec.Spec{Name: "rehearsal", Depth: 1,
		Entry: "rehearsal", Method: "rehearsal"})
	if err != nil {
		return x, near, far, err
	}
	ends, far, err := pairs()
	if err != nil {
		return x, near, far, err
	}
	if near, err = connections(ends); err != nil {
		closeAll(far[:])
		return x, near, far, err
	}
	if x, err = t.f.cfg.Peers.Expect(handshake.Expectation{Spec: spec}); err != nil {
		near[0].Close()
		near[1].Close()
		closeAll(far[:])
		return x, near, far, err
	}
	return x, near, far, nil
}
