package siblings

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/spawnwire/spawnwire/call"
	"github.com/spawnwire/spawnwire/forkspawn"
)

// Group has children of one parent, which find each other. [New] makes one. Its
// methods may be called concurrently.
type Group struct {
	may func(from, to *forkspawn.Child) bool

	mu      sync.Mutex // guards members
	members []member
}

// member is a child, and the calls to it.
type member struct {
	child *forkspawn.Child
	conn  *call.Conn
}

// New makes a Group, and adds a method for the children to mux. may decides whether
// the child from may connect to the child to. A nil may allows all.
func New(mux *call.Mux, may func(from, to *forkspawn.Child) bool) *Group {
	g := &Group{may: may}
	find.Handle(mux, g.find)
	return g
}

// Add adds a child. Others find it by its name or its id. If several children have
// the name, they find the last one. conn has the calls to the child, and serves the
// mux of New. A child leaves the Group when its conn ends.
func (g *Group) Add(child *forkspawn.Child, conn *call.Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.members = slices.DeleteFunc(g.members, func(m member) bool { return m.conn.Err() != nil })
	g.members = append(g.members, member{child, conn})
}

// last returns the last member for which is returns true. Its conn has not ended.
func (g *Group) last(is func(member) bool) (member, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, m := range slices.Backward(g.members) {
		if m.conn.Err() == nil && is(m) {
			return m, true
		}
	}
	return member{}, false
}

// find introduces the caller to the sibling of that name.
func (g *Group) find(ctx context.Context, name string) (introduction, error) {
	conn := call.ConnOf(ctx)
	from, ok := g.last(func(m member) bool { return m.conn == conn })
	if !ok {
		return introduction{}, fmt.Errorf("%w: the caller is not in the group", ErrRefused)
	}
	to, ok := g.last(func(m member) bool {
		return m.conn != conn && (m.child.Name() == name || m.child.ID() == name)
	})
	if !ok {
		return introduction{}, ErrUnknown
	}
	if g.may != nil && !g.may(from.child, to.child) {
		return introduction{}, ErrRefused
	}
	key := make([]byte, 32)
	rand.Read(key)
	short, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	addr, err := invite.Call(short, to.conn, introduction{
		Key: key, You: to.child.ID(), ID: from.child.ID(), Name: from.child.Name(),
	})
	if err != nil {
		return introduction{}, explain(ctx, err)
	}
	return introduction{
		Addr: addr, Key: key, You: from.child.ID(), ID: to.child.ID(), Name: to.child.Name(),
	}, nil
}

// explain returns the error of a failed invitation.
func explain(ctx context.Context, err error) error {
	var failed *call.Error
	switch {
	case ctx.Err() != nil || !errors.As(err, &failed):
		return err
	case failed.Code == call.CodeUnimplemented:
		return ErrNotAccepting
	case failed.Code == call.CodeDeadline:
		return fmt.Errorf("%w: no answer for %v", ErrNotAccepting, bound)
	case failed.Code == call.CodeConnection, failed.Code == call.CodeDraining:
		return fmt.Errorf("%w: %w", ErrGone, err)
	}
	return err
}
