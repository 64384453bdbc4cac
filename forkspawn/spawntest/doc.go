// Package spawntest is for the tests of programs that use package forkspawn: it runs a function of the test
// as a child, asserts that a test has left nothing behind, and waits for states without sleeping.
//
//	var upper = spawntest.Func(func(ctx context.Context, parent *forkspawn.Parent) error {
//		var s string
//		if err := parent.Recv(ctx, &s); err != nil {
//			return err
//		}
//		return parent.Send(ctx, strings.ToUpper(s))
//	})
//
//	func TestMain(m *testing.M) { spawntest.Main(m) }
//
//	func TestUpper(t *testing.T) {
//		spawntest.NoLeaks(t) // first: what comes later is undone before it looks
//		child := spawntest.Spawn(t, upper)
//		...
//	}
//
// The children are the test binary itself. [Main] makes a child of it where it was spawned as one, so it is all
// of TestMain, or its end: what runs before it runs in every child.
//
// # What was left
//
// [NoLeaks] and [Snapshot.Leaks] compare what there is with what there was: processes, also those that a child
// has started and left, whoever is their parent by now and whatever session they are in; zombies of the
// test binary; its descriptors; its goroutines; sockets, and directories for them, in the temporary directory.
// Both see the whole test binary, and so are not for tests that run in parallel with others. For one case among
// many in parallel there is [Mark], which finds the case's processes; a NoLeaks of the test around them
// finds the rest when all are done.
//
// What is just ending is waited for, for ten seconds, before it is called a leak. When there is nothing to
// report a look takes a millisecond or so.
//
// # How it finds them
//
// Main gives the test binary a temporary directory of its own (TMPDIR and XDG_RUNTIME_DIR), and a random
// mark in the environment (SPAWNWIRE_TEST_MARKS), which descendants inherit and by which /proc shows them. A
// process with an environment without the mark is found only as long as its ancestors up to the test binary live.
//
// # Platforms
//
// Processes, zombies and descriptors are found on Linux, where there is /proc. Elsewhere goroutines, sockets and
// directories are looked for and the other checks are left out. On Windows the package compiles, as
// forkspawn does, and nothing can be spawned.
package spawntest
