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
// # Spares
//
// With Config.Spares the Spawner keeps children started: their process runs, they have proved who they are, and they wait for
// their orders. Spawn takes one of them and costs a message and its answer, whatever a process of this program costs to start,
// and another takes its place in the background:
//
//	spawner, err := forkspawn.New(forkspawn.Config{Spares: 4})
//	...
//	err = spawner.Warm(ctx) // if it matters: waits until all four are there
//	child, err := spawner.Spawn(ctx, spec) // child.Boot().Spare tells
//
// What a spec says can be said late, and what a process is born with cannot: a spare stands in the directory, and has the environment, that
// this process had when the spare was started, and a Spawn that wants another directory or program starts a process as ever. A
// spare that has died is not handed out. One that dies as it is taken, with its orders unread, is not the caller's matter: Spawn takes the
// next, or starts a process. When it had read them the error is a BootError as for any child.
//
// In the child nothing is different. What runs before [Init] or [Join] runs before the child waits, and should not hold
// what others need: spares may wait for hours. They end with their Spawner, and with this process.
//
// # Warm children
//
// With [MethodForkserver] children are not executed but forked from a template: a process of this program that has loaded what
// they need once. A child begins with all of it, and shares the memory with the template until one of them writes to it:
//
//	forkspawn.RegisterWarmUp("table", loadTable) // func loadTable() error
//	forkspawn.Register("query", query)
//	forkspawn.Init() // in the template: warms up, and forks
//
//	spawner, err := forkspawn.New(forkspawn.Config{Method: forkspawn.MethodForkserver, WarmUp: "table"})
//	...
//	err = spawner.Warm(ctx) // or the first Spawn waits for the warm-up
//
// Children are children of this process, in a group of their own, with streams, directory, environment and errors as ever. A
// command with another program or other arguments is executed. The Spawner starts the template when it first needs one, and a new
// one when that has ended, is stopped, has not warmed up within Config.WarmUpTimeout, or when this process's credentials, capabilities
// among them, are not what they were when it was started; Spawns that wait for it get a [*TemplateError]. It ends with its Spawner.
// What a template lacks in descriptors, processes or memory is a [*ResourceError], as below.
//
// It works on linux/amd64, in a program built with CGO_ENABLED=0; [ForkserverSupport] finds out, and
// Config.ForkserverFallback has children executed elsewhere. A template tries itself for half a second before it warms up.
//
// A template has what this process had when it was started, and a child what the template has: limits, credentials, umask,
// namespaces, and the command line and environment that /proc shows. A child's own are its standard streams, directory, process group, command
// name, parent-death signal, and the environment that it sees itself.
//
// Dead in a child are files and connections that the warm-up left open: what is read from them is at its end. Of goroutines that it
// left running each child has copies, and of what they hold: locks, buffers that are not flushed, timers. Signals that were asked for or
// ignored in the warm-up are not in a child. So a warm-up loads and parses, compiles and fills caches, and leaves to the entries what is opened,
// started or locked. While it has a CPU profile or an execution trace running nothing can be forked, which the error says.
//
// Shared is what was made from random numbers: maphash.Seed, the seeds of maps, TLS ticket keys, a math/rand.Rand of the program's own.
// [AfterFork] is where a program makes it anew. The functions of math/rand and crypto/rand draw other numbers in each child.
// All children can read what the warm-up has read, secrets too. What comes with one child's spec or environment no other gets to see.
//
// A collection writes to memory that holds pointers, and what is written to is shared no more. After one collection a child has half of a
// heap of small linked objects for itself, and of a table without pointers nothing (TestWhatACollectionWritesTo prints it). So a large table is best
// kept in few objects without pointers, such as one []byte and offsets into it; and a child that does not live long, and has other memory to share, does
// well with debug.SetGCPercent(-1), or a high value.
//
// # End
//
// [Child.Stop] asks, waits, sends SIGTERM, waits, sends SIGKILL, and says which it took. A child's
// context ([Parent.Context]) ends within moments of the asking, also while the child is busy. When a
// child has ended, in whatever way, what is left of its process group is killed. [Spawner.Close] does the same
// for all children side by side.
//
// A [Group] is a set of children that live and die together, in the habit of errgroup: the first failure ends
// all, Wait returns all failures, and a [RestartPolicy] starts children anew. Groups nest as processes do. A
// process that was itself spawned and is asked to stop has its graces cut to what its own parent leaves it,
// so that a tree ends from its leaves upward and within the grace of its root.
//
// Ctrl-C in a terminal reaches the parent alone; [Spawner.NotifyContext] makes a first one end a context and a second
// one shorten the stops. Ctrl-Z stops the parent alone, too: its children go on, as background
// jobs do, until one blocks on a captured stream that the parent does not read meanwhile, and after fg all is as before.
//
// When the parent dies, its children end: on Linux the kernel kills them (PR_SET_PDEATHSIG); elsewhere,
// and with Config.NoParentDeathSignal, they see their connection end and have [OrphanGrace] to finish.
//
// Waiting for a child costs a goroutine and, on Linux, no thread. A program that itself waits for any child
// (wait4 with pid -1) takes statuses away: they are then unknown, and never taken for success.
//
// Config.Subreaper also ends what has left a child's process group, such as a daemon.
//
// # What can be seen
//
// Config.Logger gets what is worth a line, and Config.Trace has functions that are called at each step of each
// child's life, with its times.
//
// # Scarcity
//
// When the system is out of descriptors, processes, memory or space, or lacks a directory or a device, the
// error is a [*ResourceError] that names the limit and what helps. Nothing is left behind, running
// children are not disturbed, and stopping them needs nothing new. A child that itself runs into a limit dies,
// and its last words, with the Go runtime's own reason, are in the BootError. The Go runtime ends
// a whole process that cannot have a thread (RLIMIT_NPROC, pids.max): leave room for both.
//
// As the first process of a container, where orphans are given to it, this package waits for its own
// children alone. It does not reap others, whose zombies stay until the program does, unless Config.Subreaper is set.
//
// # Parts
//
// [StartProcess] is the fork helper by itself. [Race] is the wait of Spawn by itself, for a runtime that
// starts its processes in its own way; [Starter] and [Process] let such a runtime keep all the rest.
package forkspawn
