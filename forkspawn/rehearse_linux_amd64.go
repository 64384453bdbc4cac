package forkspawn

import (
	"context"
	"net"
	"time"

	"github.com/spawnwire/spawnwire/handshake"
	"github.com/spawnwire/spawnwire/spawnspec"
)

// A template joins its Spawner as its children will, before it is ready: so a child finds done what is done once in a
// process, has the buffers, and allocates where there is room already. It changes nothing else, and an error of it does
// no harm.

// rehearsalBound is there to find hangs.
const rehearsalBound = 5 * time.Second

// rehearse asks for a rehearsal and joins. The Spawner's side of it is not in this process, as each program would have to
// link that, and start the slower for it.
func (t *templateProcess) rehearse() error {
	t.tell(templateNews{kind: newsRehearse}, -1)
	request, _, err := t.receive()
	if err != nil {
		return err
	}
	defer clear(t.request)
	if t.nFiles != rehearsalFiles {
		closeAll(t.files[:t.nFiles])
		return errTemplateMessage
	}
	connect, control := connector(t.files[0]), connector(t.files[1])
	ticket, err := handshake.ParseTicket(string(request.ticket))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), rehearsalBound)
	defer cancel()
	p, err := join(ctx, ticket, joining{
		cfg:  JoinConfig{OnParentGone: func() {}},
		dial: func(context.Context) (net.Conn, error) { return connect() }, control: control,
	})
	if err != nil {
		return err
	}
	return p.Close(0, "")
}

// rehearsalFiles are the descriptors of the answer to newsRehearse: the ends of a message connection and of a control connection.
const rehearsalFiles = 2

// rehearse is the Spawner's side. The template gets an answer in any case.
func (t *template) rehearse(deadline time.Time) error {
	x, near, far, err := t.expectRehearsal()
	if err != nil {
		return t.send((&forkRequest{}).encode(), nil, deadline)
	}
	defer x.Cancel()
	request := forkRequest{ticket: x.AppendTicket(nil, t.f.s.addr)}
	message := request.encode()
	clear(request.ticket)
	err = t.send(message, far[:], deadline)
	clear(message)
	closeAll(far[:])
	x.Serve(near[0], near[1])
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(t.f.s.ctx, rehearsalBound)
	defer cancel()
	x.Answer(ctx)
	if peer, err := x.WaitForPeer(ctx); err == nil {
		peer.Close()
	}
	return nil
}

func (t *template) expectRehearsal() (x *handshake.Expected, near [2]net.Conn, far [2]int, err error) {
	self := t.f.s.peers.Identity()
	spec, err := spawnspec.Marshal(&spawnspec.Spec{
		Name: "rehearsal", Depth: 1, Entry: "rehearsal", Method: MethodForkserver,
		Parent: spawnspec.Identity{ID: self.ID, Name: self.Name, PID: self.PID},
	})
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
	if x, err = t.f.s.peers.Expect(handshake.Expectation{ID: handshake.NewID(), Spec: spec}); err != nil {
		near[0].Close()
		near[1].Close()
		closeAll(far[:])
		return x, near, far, err
	}
	return x, near, far, nil
}
