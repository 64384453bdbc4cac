// Package vfork starts a program with the given descriptors only.
//
// It is like syscall.ForkExec, with one step more: between fork and exec the child
// closes all other descriptors with close_range(2). So the child gets no
// descriptor that the parent has leaked without close-on-exec, and the parent's own
// descriptors and their flags do not change. The clone also returns a pidfd. It
// needs no pipe to report a failed exec, because the child shares the parent's
// memory until then.
//
// These are the steps. Compare them with clone3(2), vfork(2), close_range(2) and
// signal(7):
//
//  1. The thread blocks all signals, so that no handler of the Go runtime can run
//     in the child.
//  2. clone3 with CLONE_VM and CLONE_VFORK: the child runs in the parent's memory
//     and on its stack. The parent's thread waits meanwhile. The size of the
//     parent's heap does not matter. CLONE_CLEAR_SIGHAND gives the child default
//     handlers; ignored signals stay ignored. CLONE_PIDFD returns the pidfd.
//  3. The child runs one function that never returns and makes only raw system
//     calls: process group, parent-death signal (and a check that the parent is
//     alive), leash, descriptors, close_range, Settings, directory, the parent's
//     original signal mask, execve.
//  4. If a step fails, the child writes the step and the error into the parent's
//     memory, and exits.
//  5. The parent's thread continues after the child has executed or exited, and
//     restores its signal mask.
//
// Start holds syscall.ForkLock, as package syscall does. A program can hold that
// lock for reading while it writes an executable, and so start it at once
// (golang/go#22315). If the child waits for a hanging file system, Start releases
// the lock after step close_range.
//
// There is one difference from syscall.ForkExec. The child gets the soft
// RLIMIT_NOFILE of the parent. ForkExec resets it to the value before the Go
// runtime raised it, but only package syscall knows that value.
//
// The package works on linux/amd64 and linux/arm64, because it was tested on no other machine.
// Supported reports whether the kernel is new enough (5.9).
package vfork
