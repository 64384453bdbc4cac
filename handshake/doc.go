// Package handshake makes two strangers on a connection into peers that have proved to each other who they
// are. It has two handshakes: one for a parent and the children that it starts, and one for programs of
// which neither started the other. It starts no processes: package forkspawn does, and is what most programs
// want; this package is for runtimes that start their children in their own way, and for peers.
// docs/PROTOCOL.md has the bytes, testdata/ examples of them.
//
// # Parent
//
// A parent listens, registers each child before it starts it, and hands it a [Ticket] that nobody else can
// read: where to connect, the child's id, and a secret that works once.
//
//	l, err := handshake.Listen(ln, handshake.ListenerConfig{}) // ln from uds.Listen, tcp.Listen or package net
//	defer l.Close()
//
//	ticket := handshake.Ticket{Addr: l.Addr(), ID: handshake.NewID(), Secret: handshake.NewSecret()}
//	x, err := l.Expect(handshake.Expectation{ID: ticket.ID, Secret: ticket.Secret, Spec: spec})
//	defer x.Cancel()                                           // forgets the child; a peer that was taken lives on
//	cmd.Env = append(cmd.Env, handshake.TicketEnv+"="+ticket.Encode())
//	err = cmd.Start()
//	x.SetPID(cmd.Process.Pid)                                  // on a Unix socket nobody else is let in
//
//	peer, err := x.WaitForPeer(ctx)                            // ready, or an *Error that says how far it came
//	defer peer.Close()
//	err = peer.Channel.Send(ctx, "hello")
//
// WaitForPeer knows nothing of the process: whoever started it also waits for its death, with
// [Expected.Done] in the same select, as forkspawn.Race does.
//
// A [Listener] serves any number of children at once, and strangers disturb none of them. Whoever connects has
// a short time to say one message of 64 KiB at most; a wrong one is refused, logged, and told no more than
// that.
//
// # Child
//
// A child takes its ticket, connects and joins. When [Join] returns, the parent has proved that it knows
// the secret. The child looks at its spec and answers, in one of two ways:
//
//	ticket, ok, err := handshake.TakeTicket()                  // removes it: the child's own children must not see it
//	conn, err := uds.Dial(ctx, ticket.Addr)
//	j, err := handshake.Join(ctx, conn, ticket, handshake.JoinConfig{})
//	if spec, err := spawnspec.Unmarshal(j.Spec); err != nil {
//		return j.Fail(ctx, handshake.FailedError{Phase: handshake.PhaseSpec, Code: handshake.CodeBadSpec, Text: err.Error()})
//	}
//	err = j.Ready(ctx, handshake.Timings{})
//	err = j.Channel.Recv(ctx, &word)                           // "hello"
//
// What the child says to Fail is the error that its parent gets, word for word.
//
// A child that is busy, or has messages queued, does not see its parent's request to stop among
// them. With JoinConfig.Control it opens a second connection for that, with [Joined.AttachControl].
//
// # Peers
//
// Two programs that were not started by each other call [ConnectPeer] and [AcceptPeer], each on its end of a
// connection, and say how they know each other: by a shared key, by the kernel's word that both run as the same
// user (Unix sockets), or, if both ask for that, not at all.
//
//	peer, err := handshake.ConnectPeer(ctx, conn, handshake.PeerConfig{Key: key})
//
// # Trust
//
// Whoever knows a child's secret before the child has used it is the child, and whoever knows it and
// listens at the address is the parent: so a ticket travels in the environment, never in arguments, and other
// users of the machine are kept out by the socket's directory and by the kernel's word on who connects.
// Every byte before the proof is bounded in size and in time, nothing is acted on before it, and a used, late or
// wrong secret is refused. The proof is of the beginning of a connection, not of what follows: on one
// machine the kernel keeps others out of it, and across a network TLS must: see package transport/tls. A TLS connection that
// is given to this package need not have shaken hands.
//
// # Errors
//
// Handshakes fail with an [*Error], which names the [Phase] that was not completed. In it errors.Is and
// errors.As find what happened: [ErrBadMAC], [ErrRefused], [*VersionError], the other side's own words in a
// [*FailedError], transport's errors such as ErrPeerGone, or how the context ended.
package handshake
