// Package siblings connects children of one parent with each other. A child asks its
// parent for another child by name, and gets an authenticated channel to it. The
// parent decides who may.
//
// It works over the calls between parent and children. The parent:
//
//	mux := call.NewMux()
//	group := siblings.New(mux, nil)
//	conn := call.New(child, mux) // for each child
//	group.Add(child, conn)
//
// A child that siblings may connect to:
//
//	stop := siblings.Accept(ctx, mux, parent, serve) // func(context.Context, *handshake.Peer)
//	defer stop()
//
// Another child, with its call.Conn to the parent:
//
//	peer, err := siblings.Dial(ctx, conn, "store")
//	defer peer.Close()
//	store := call.New(call.Over(peer.Channel), nil)
//
// The children must run on the same machine. The connection is a Unix socket. For each
// connection the parent makes a key for the two children, and the key is used once.
package siblings

import (
	"errors"
	"time"

	"github.com/spawnwire/spawnwire/call"
)

// The causes of an error of [Dial]. errors.Is finds them.
var (
	// ErrUnknown: the parent has no running child of that name.
	ErrUnknown = errors.New("no such sibling")

	// ErrRefused: the parent does not allow the connection.
	ErrRefused = errors.New("the parent refuses the connection")

	// ErrNotAccepting: the sibling does not accept siblings, or has not answered
	// for ten seconds.
	ErrNotAccepting = errors.New("the sibling does not accept siblings")

	// ErrGone: the sibling has ended meanwhile.
	ErrGone = errors.New("the sibling is gone")
)

func init() {
	call.RegisterError("siblings.ErrUnknown", ErrUnknown)
	call.RegisterError("siblings.ErrRefused", ErrRefused)
	call.RegisterError("siblings.ErrNotAccepting", ErrNotAccepting)
	call.RegisterError("siblings.ErrGone", ErrGone)
}

// bound is how long the parent waits for the answer of a sibling, and the sibling for
// a connection.
const bound = 10 * time.Second

// The methods. A child calls find, and the parent calls invite of the other child.
var (
	find   = call.NewUnary[string, introduction]("spawnwire.sibling.find")
	invite = call.NewUnary[introduction, string]("spawnwire.sibling.invite") // returns an address
)

// introduction is what a child learns from its parent about another.
type introduction struct {
	Addr string // of the sibling that accepts, for the other one
	Key  []byte // for these two
	You  string // the id of the child that gets this
	ID   string // of the sibling
	Name string // of the sibling
}
