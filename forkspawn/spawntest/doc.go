// Package spawntest provides utilities for tests of programs that use package
// forkspawn. It runs a function of the test as a child process, checks that a
// test has left nothing behind, and waits for states without fixed sleeps.
//
//	var upper = spawntest.Func(runUpper) // func(context.Context, *forkspawn.Parent) error
//
//	func TestMain(m *testing.M) { spawntest.Main(m) }
//
//	func TestUpper(t *testing.T) {
//		spawntest.NoLeaks(t) // first, so that it looks after all other cleanups
//		child := spawntest.Spawn(t, upper)
//		...
//	}
//
// Each child is another process of the test binary: [Main] runs the tests in
// the parent, and the function in the child. TestMain must end with Main. Code
// before Main runs in every child too.
//
// # Leaks
//
// [NoLeaks] and [Snapshot.Leaks] report new ones of these:
//
//   - running descendants of the test binary, in any session, even if their
//     parent has died
//   - zombies of the test binary
//   - descriptors and goroutines of the test binary
//   - sockets, and directories for sockets, in the temporary directory
//
// They look at the whole test binary, so parallel tests cannot use them. Call
// NoLeaks in the test around the parallel ones.
//
// A leak is reported only if it is still there after ten seconds. If there is
// nothing to report, a check takes about a millisecond.
//
// [Main] sets a random value in the variable SPAWNWIRE_TEST_MARKS, and
// descendants inherit it. A process without that value is found only while all
// its ancestors, up to the test binary, are alive.
//
// # Platforms
//
// Processes, zombies and descriptors are found only on Linux, in /proc. On
// Windows the package compiles, but it cannot spawn a child.
package spawntest
