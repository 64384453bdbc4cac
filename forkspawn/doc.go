// Package forkspawn starts processes and ends them well: spawn a child, get a channel or an exact error;
// never a hang, never an orphan.
//
// A program whose children are itself registers what they can run and calls [Init] first thing in main:
//
//	func main() {
//		forkspawn.Register("upper", upper) // func upper(ctx context.Context, parent *forkspawn.Parent) error
//		forkspawn.Init()                   // in a child: joins its parent, runs the entry, exits
//
//		spawner, err := forkspawn.New(forkspawn.Config{})
//		...
//		defer spawner.Close() // no child outlives it
//		child, err := spawner.Spawn(ctx, spawnspec.Spec{Entry: "upper"})
//		...
//		err = child.Send(ctx, "hello")
//		err = child.Recv(ctx, &reply)
//		result, err := child.Stop(ctx)
//	}
//
// A child that is another Go program calls [Join]; one in another language follows docs/PROTOCOL.md.
//
// # Start
//
// [Spawner.Spawn] waits for whichever comes first: the child is ready, it has died, Config.BootTimeout
// has passed, the context has ended, the Spawner is closed. Its error is a [*BootError] that says which
// phase did not complete, how the process ended, what it last wrote to stderr, and where the time went.
// When Spawn returns an error, nothing of the child is left: no process, zombie, descriptor or file.
//
// The child keeps only stdio: descriptors 0, 1 and 2 and nothing else, whatever this process leaked. It
// leads a process group of its own, so that a Ctrl-C in a terminal reaches the parent alone. Its stdin is
// the null device unless Config says otherwise: as a background group it could not read from a
// terminal anyway.
//
// # End
//
// [Child.Stop] asks, waits, sends SIGTERM, waits, sends SIGKILL, and says which it took. A child's
// context ([Parent.Context]) ends within moments of the asking, also while the child is busy. When a
// child has ended, in whatever way, what is left of its process group is killed. [Spawner.Close] does the same
// for all children side by side.
//
// When the parent dies, its children end: on Linux the kernel kills them (PR_SET_PDEATHSIG); elsewhere,
// and with Config.NoParentDeathSignal, they see their connection end and have [OrphanGrace] to finish.
//
// Waiting for a child costs a goroutine and, on Linux, no thread. A program that itself waits for any child
// (wait4 with pid -1) takes statuses away: they are then unknown, and never taken for success.
//
// # Parts
//
// [StartProcess] is the fork helper by itself. [Race] is the wait of Spawn by itself, for a runtime that
// starts its processes in its own way; [Starter] and [Process] let such a runtime keep all the rest.
package forkspawn
