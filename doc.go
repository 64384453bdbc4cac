// Package spawnwire has no code. It says where to start in this module, a
// library for programs of several processes: spawn a process, get a channel or
// an exact error; never a hang, never an orphan.
//
// A parent starts a child, and both prove to each other who they are. Then the
// child gets its spec, and the two have a channel of whole messages:
//
//	func main() {
//		forkspawn.Register("upper", upper) // func upper(context.Context, *forkspawn.Parent) error
//		forkspawn.Init()                   // in a child: runs the entry and exits
//
//		spawner, err := forkspawn.New(forkspawn.Config{})
//		...
//		defer spawner.Close()
//		child, err := spawner.Spawn(ctx, spawnspec.Spec{Entry: "upper"})
//		...
//		err = child.Send(ctx, "hello")
//		err = child.Recv(ctx, &reply)
//	}
//
// The packages, and when to read them:
//
//   - [github.com/spawnwire/spawnwire/forkspawn] starts children and ends them:
//     groups, restarts, spares, captured output. Most programs need only this.
//   - [github.com/spawnwire/spawnwire/call] makes calls between parent and child,
//     with requests, replies and streams.
//   - [github.com/spawnwire/spawnwire/spawnspec] has the spec of a child.
//   - [github.com/spawnwire/spawnwire/forkspawn/siblings] connects children of one parent.
//   - [github.com/spawnwire/spawnwire/launch/ssh] starts children on other machines.
//     Package launch/oci uses containers, and launch/slurm a cluster.
//   - [github.com/spawnwire/spawnwire/live] shows the processes in a browser.
//   - [github.com/spawnwire/spawnwire/blob] shares large data.
//   - [github.com/spawnwire/spawnwire/transport] has channels, for messages over
//     any connection. Its subpackages uds, tcp and tls make connections.
//   - [github.com/spawnwire/spawnwire/handshake] authenticates a child, or two
//     programs with a shared key. It is for runtimes with a start of their own.
//   - [github.com/spawnwire/spawnwire/forkspawn/spawntest] is for tests: a
//     function as a child in one call, and a search for leaks.
//
// README.md links to a page for each task, and docs/tutorial.md builds a pool.
//
// Children and peers can be programs in other languages: docs/PROTOCOL.md
// describes the bytes, and examples/peers has both in Python and Node.js.
//
// The floors of the packages and a record for each decision are in docs/design.
package spawnwire
