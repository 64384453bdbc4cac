// Package transport carries whole messages between two processes over a [net.Conn].
//
// A [Channel] puts each message into one frame: a length of four bytes in
// little-endian order, a byte for the kind, and the body. docs/PROTOCOL.md has the
// diagram. [Channel.Send] and [Channel.Recv] carry values in CBOR (RFC 8949).
// [Channel.SendBytes] and [Channel.RecvBytes] carry plain bytes.
//
//	ch := transport.New(conn, transport.Config{})
//	defer ch.Close()
//	if err := ch.Send(ctx, "hello"); err != nil { ... }
//	var reply string
//	if err := ch.Recv(ctx, &reply); err != nil { ... }
//
// Three things make many or large messages cheap:
//
//   - [Channel.NewBatch] collects the small messages of one goroutine for one write.
//     Goroutines that send on a channel at the same time share writes without it.
//   - [Channel.SendBytes] writes from the caller's memory, [Channel.RecvBytes] reads
//     into it, and [Channel.RecvBorrowed] lends the channel's memory to the caller.
//   - A [Bytes] field of a message reuses its memory from one receive to the next. So
//     does a cbor.RawMessage, which leaves its part of the message encoded.
//
// Each call takes a context and returns when the context ends. A cancelled receive
// loses nothing. A cancelled send has written nothing, or it has broken the channel
// for further sends and its error matches [ErrBroken].
//
// After an orderly close ([Channel.Close]) the peer gets a [GoodbyeError], which
// matches [io.EOF]. After a crash or a cut it gets [ErrPeerGone].
//
// An [Addr] names a place to listen. The packages transport/uds, transport/tcp and
// transport/tls open the sockets. Package handshake proves who the peer is.
package transport
