// Package transport carries whole messages between two processes over any [net.Conn].
//
// A [Channel] puts each message into one frame: a length of four bytes, little-endian, a byte that says
// what it is, and the body (docs/PROTOCOL.md has the diagram). [Channel.Send] and [Channel.Recv] carry
// any value that CBOR (RFC 8949) can hold; [Channel.SendBytes] and [Channel.RecvBytes] carry bytes
// that nobody interprets, without a copy where they are many.
//
//	ch := transport.New(conn, transport.Config{})
//	defer ch.Close()
//	if err := ch.Send(ctx, "hello"); err != nil { ... }
//	var reply string
//	if err := ch.Recv(ctx, &reply); err != nil { ... }
//
// Many or large messages are cheap where they are sent so that they can be:
//
//   - [Channel.NewBatch] gathers the small messages of one goroutine for one write; those of goroutines that send on a
//     channel at the same time share writes by themselves.
//   - [Channel.SendBytes] writes many bytes from where they lie, [Channel.RecvBytes] reads them to where they
//     belong, and [Channel.RecvBorrowed] lends the channel's own memory until the next receive.
//   - A [Bytes] field of a typed message reuses its memory from one receive to the next. A cbor.RawMessage does too,
//     and leaves its part of the message undecoded.
//
// Every call takes a context and returns when it ends. A cancelled receive loses nothing. A cancelled
// send wrote nothing, or the channel is broken and says so ([ErrBroken]).
//
// An orderly close ([Channel.Close]) reaches the peer as a [GoodbyeError], which is [io.EOF]. A crash or a
// cut reaches it as [ErrPeerGone].
//
// [Addr] names a place to listen; packages transport/uds and transport/tcp open the sockets. This package
// knows nothing of processes, identities or secrets: package handshake does.
package transport
