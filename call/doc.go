// Package call makes calls between processes: requests, replies and streams, over a
// [transport.Channel], in both directions and many at a time.
//
// Both programs share the methods. A method is a variable with its name and types:
//
//	var Resize = call.NewUnary[ResizeRequest, Image]("image.resize")
//
// A child serves methods. Its entry returns when the parent closes the channel:
//
//	func worker(ctx context.Context, parent *forkspawn.Parent) error {
//		mux := call.NewMux()
//		Resize.Handle(mux, resize) // func(context.Context, ResizeRequest) (Image, error)
//		return call.Serve(ctx, parent, mux)
//	}
//
// The parent calls them:
//
//	conn := call.New(child, nil)
//	defer conn.Close()
//	img, err := Resize.Call(ctx, conn, ResizeRequest{Width: 640})
//
// Both sides may call. A handler calls its caller back with [ConnOf], and the parent
// passes a Mux to [New] for that. Peers of package handshake use [Over].
//
// # Streams
//
// A [ServerStream] has a stream of replies, a [ClientStream] one of requests, and a
// [Bidi] both. A [Session] is a Bidi that begins with a value from the handler. The
// caller of a ServerStream ranges over the replies. [Map] spreads many unary calls
// over the children of a group.
//
// A sender waits while the other side does not take its messages. So a stream does
// not hold up other calls.
//
// # Cancellation
//
// If the context of a call ends, the peer cancels the context of the handler, and
// the call ends when the handler has returned. If that takes too long, the error
// matches [ErrStillRunning]. After any other error the handler has ended, unless the
// code is [CodeConnection]. The deadline of a context goes with the call.
//
// A child that is stopped cancels its handlers. The error of their calls matches
// context.Canceled, too.
//
// # Errors
//
// Every error of a call is an [*Error] with a code. Streams also return io.EOF and
// [ErrClosed]. errors.Is finds what the handler returned: errors of [RegisterError],
// of contexts, of io and fs, and a syscall.Errno. A panic of a handler reaches the
// caller with its stack, and then ends the handler's process. If the process dies,
// its calls fail with its exit status, a *forkspawn.ExitError. If it exits with
// status 0, they fail with the error of the channel.
//
// # Limits
//
// Each side limits how many calls the other may have open, and how much memory
// received messages use; see [Config]. A caller waits until the peer has room. Large
// messages are sent in parts between those of other calls.
//
// docs/PROTOCOL-call.md specifies the frames, and docs/design has the reasons.
package call
