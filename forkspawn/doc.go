// Package forkspawn starts child processes and ends them: spawn a process, get a
// channel or an exact error; never a hang, never an orphan.
//
// The usual child is this very program. It registers functions for its children,
// and calls [Init] first thing in main:
//
//	func main() {
//		forkspawn.Register("upper", upper) // func upper(context.Context, *forkspawn.Parent) error
//		forkspawn.Init()                   // in a child: joins its parent, runs the entry, exits
//
//		spawner, err := forkspawn.New(forkspawn.Config{})
//		...
//		defer spawner.Close() // ends all children
//		child, err := spawner.Spawn(ctx, spawnspec.Spec{Entry: "upper"})
//		...
//		err = child.Send(ctx, "hello")
//		err = child.Recv(ctx, &reply)
//		result, err := child.Stop(ctx)
//	}
//
// Another Go program does the same, or calls [Join]. A child that prepares itself
// first uses [RegisterReadyLater]. Other languages: see docs/PROTOCOL.md.
//
// # Starting
//
// [Spawner.Spawn] returns as soon as the child is ready, or cannot become ready.
// Its error is a [*BootError] with the failed phase, the cause, the exit status
// and the last output. After an error nothing of the child is left: no process,
// zombie, descriptor or file.
//
// A child has the descriptors 0, 1 and 2 only, and a process group of its own. So
// a Ctrl-C in a terminal reaches the parent only; see [Spawner.NotifyContext].
//
// Spawn can be made faster in two ways. [Config.Spares] keeps children started in
// reserve. [MethodForkserver] forks children from a template that has loaded
// their data once; see [RegisterWarmUp].
//
// # Ending
//
// [Child.Stop] asks the child to stop, waits, sends SIGTERM, waits, and sends
// SIGKILL. The child's context ([Parent.Context]) ends within moments of the
// request. When a child has ended, the rest of its process group is killed. With
// [Config.Subreaper], daemons of the child are killed, too. A [Group] is a set of
// children that live and die together; see [GroupConfig] for restarts.
//
// When the parent dies, its children end, unless [Child.Release] has let them go. On Linux
// the kernel kills them. Elsewhere, and with [Config.NoParentDeathSignal], they notice the
// end of their connection and have a quarter of a second to finish. A tree of processes
// stops from its leaves up, within the grace of its root.
//
// # Observing
//
// [Config.Logger] and [Config.Trace] report each step of each child's life. If
// descriptors, processes, memory or space are lacking, the error is a
// [*ResourceError] with the limit and a remedy. Running children are not affected.
//
// # Own runtimes
//
// [StartProcess] starts one process and waits for it. [Config.Start] and [Process]
// replace it in a Spawner, and [AwaitReady] is the wait of Spawn alone.
package forkspawn
