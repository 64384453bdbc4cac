// Package vfork starts a program in a child that keeps only descriptors 0, 1 and 2.
//
// It is what syscall.ForkExec does, plus what that cannot: between fork and exec the child closes every
// descriptor from 3 up with close_range(2), so nothing that the parent leaked without close-on-exec gets
// through, and the parent's own descriptors and their flags stay as they are. The clone also
// returns a pidfd, and needs no pipe to report a failed exec, because the child shares the parent's
// memory until then.
//
// How it works, to be checked against clone3(2), vfork(2), close_range(2), signal(7):
//
//  1. The thread blocks all signals, so that no handler of the Go runtime can run in the child.
//  2. clone3 with CLONE_VM and CLONE_VFORK: the child runs on the parent's memory and stack while the
//     parent's thread waits, however large the parent's heap is. CLONE_CLEAR_SIGHAND gives the child
//     default handlers, ignored signals stay ignored. CLONE_PIDFD gives the pidfd.
//  3. The child, in one function that never returns and makes only raw system calls: process group,
//     parent-death signal (and a check that the parent is still there), directory, descriptors,
//     close_range, the parent's original signal mask, execve.
//  4. When that fails it writes the step and the error into memory that the parent reads, and exits.
//  5. The parent's thread goes on when the child has executed or exited, and restores its signal mask.
//
// syscall.ForkLock is held meanwhile, as package syscall does it: a program that writes an executable
// and starts it can hold the lock for reading while the file is open (golang/go#22315).
//
// One thing differs from syscall.ForkExec: that lowers the soft RLIMIT_NOFILE back to what it was before
// the Go runtime raised it, which this package cannot know. The child gets the limit that the parent has.
//
// Only linux/amd64 has it, for want of other machines to prove it on. Supported tells whether the
// kernel is new enough (5.9).
package vfork
