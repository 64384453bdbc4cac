// Package handshake authenticates the two ends of a connection to each other: a
// parent and its child, or two peers that did not start each other.
// docs/PROTOCOL.md specifies both handshakes, and testdata has test vectors.
//
// Most programs use package forkspawn. This package starts no processes: it is
// for peers, and for runtimes that start their children in another way.
//
// # Parent and child
//
// A parent registers a child before it starts it, and passes it a [Ticket]: the
// parent's address, the child's id, and a secret that works once.
//
//	l, err := handshake.Listen(ln, handshake.ListenerConfig{})
//	defer l.Close()
//	x, err := l.Expect(handshake.Expectation{Spec: spec})
//	defer x.Cancel()
//	cmd.Env = append(os.Environ(), handshake.TicketEnv+"="+x.Ticket().Encode())
//	err = cmd.Start()
//	x.SetPID(cmd.Process.Pid) // see SetPID for Unix sockets
//	peer, err := x.WaitForPeer(ctx)
//	defer peer.Close()
//	err = peer.Channel.Send(ctx, "hello")
//
// WaitForPeer does not watch the process. The caller selects on [Expected.Done]
// and on the end of the process, as forkspawn.AwaitReady does. A [Listener]
// serves many children. An unauthenticated client may send it one message of at
// most 64 KiB, in limited time. A refusal gives no reason; the log does.
//
// The child takes its ticket, connects and joins. When [Join] returns, the
// parent has proved that it knows the secret.
//
//	ticket, ok, err := handshake.TakeTicket() // and clears the environment of it
//	conn, err := uds.Dial(ctx, ticket.Addr)
//	j, err := handshake.Join(ctx, conn, ticket, handshake.JoinConfig{})
//	if spec, err := spawnspec.Unmarshal(j.Spec); err != nil {
//		return j.Fail(ctx, handshake.PhaseSpec, err) // WaitForPeer returns its text
//	}
//	err = j.Ready(ctx, nil)
//	err = j.Channel.Recv(ctx, &word) // "hello"
//
// With JoinConfig.Control a child can open a second connection, on which it
// gets a request to stop while it is busy or has messages queued.
//
// # Peers
//
// One peer calls [ConnectPeer], the other [AcceptPeer]. They authenticate by a
// shared key, by the kernel's report of the same user (Unix sockets), or not.
//
// # Security
//
// A process that learns a child's unused secret can impersonate the child, and
// the parent too if it listens at the parent's address. So pass tickets in the
// environment, never in arguments. On Unix sockets the socket's directory and
// the kernel's report of the client's user and process keep other users out.
//
// Everything before the proof is bounded in size and time, and has no effect.
// The handshake does not protect later messages: on one machine the kernel
// does, on a network package transport/tls. A TLS connection may be passed
// before its TLS handshake. A failed handshake returns an [*Error] with the
// [Phase] and the cause.
package handshake
