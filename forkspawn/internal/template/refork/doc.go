// Package refork forks a running Go program without exec. The child is the same
// program at the same place. It shares the heap copy-on-write, and its runtime
// works. The package supports linux/amd64 and linux/arm64 without cgo.
//
//	forker, err := refork.Prepare() // once
//	pid, _, err := forker.Fork(refork.Options{})
//	if err == nil && pid == 0 {
//		// the child
//	}
//
// After fork(2) the child has one thread. The runtime's memory is a copy, so
// the runtime believes in all threads of the parent, and its next collection
// waits for them for ever. A change of the runtime is discussed in
// golang/go#77032. This package needs none. It stops every thread at a known
// place before the fork, and starts a copy of each thread at that place after
// it.
//
// # Freeze
//
//	freeze_linux.go, handler_linux_*.s
//	signal(7), sigaction(2), sigaltstack(2), tgkill(2), futex(2)
//
// The forking thread sends signal 34 to every other thread. The runtime neither
// handles nor blocks this one. When the handler runs, the state of the thread
// is in a frame on its stack. The kernel has put it there: all registers, the
// FPU, the signal mask and the alternate stack. The handler notes the frame's
// address in a slot, with thread id and thread pointer. Then it sleeps on a
// futex until the number of the attempt changes. It has no Go stack, takes no
// lock, and writes to nothing else.
//
// The forking thread blocks all signals. It lists /proc/self/task, signals the
// threads that are new, and lists again, until all threads of a list were
// frozen before the list was made. The kernel's own count must agree, because a
// thread that ends can cut a list short.
//
// An attempt can fail for a good reason. A thread at its end blocks all signals
// and then wants a lock, and a frozen thread may hold this lock. Only a thaw
// helps. So an attempt ends when a thread that was signalled sleeps, or after
// 20 ms, and later more. Fork makes attempts for 4 seconds, and for 8 if threads
// are late. A late handler of one attempt must not write to a slot of the next.
// So a handler counts itself in before it reads anything, and out at its end,
// and no attempt begins while one is inside.
//
// The signal interrupts system calls, as any other does. With SA_RESTART the
// kernel makes most of them again. The others return EINTR, which Go's runtime
// and standard library always expect, because preemption uses a signal too.
//
// # Fork
//
//	freeze_linux.go, inspect_linux.go, machine_linux_*.go
//	clone(2), getitimer(2), timer_create(2), proc_pid_fdinfo(5)
//
// While all threads are frozen, each fork proves that the child can be rebuilt.
// The runtime knows as many threads as the kernel does. The m.procid of each
// thread is its id. Each thread's FS base has the same distance to its m, or on
// arm64 the thread pointers are equal, so there is no C library. The random
// states look like random states. The poller is where it was, and its list can
// be read. No CPU profile is running, or has left timers.
//
// If anything is not so, the threads go on. Fork tries again where that can
// help. Otherwise it returns a [*Refused] with the reason and a remedy.
//
// Then the thread calls clone with SIGCHLD. CLONE_PARENT makes the child one of
// the parent's parent; the first process of a pid namespace gets EINVAL for it.
// The parent sends Options.Report (sendmsg(2)) and wakes its threads.
//
// # Arming
//
//	request_linux.go; ppoll(2), recvmsg(2), signalfd(2)
//
// With Options.Request the process is frozen and inspected before a request
// comes. The request then costs no more than a clone. The forking thread waits
// for the socket and for a signalfd. All threads block these signals meanwhile,
// so a signal for the process stays pending, ends the wait, and is handled
// after the thaw.
//
// The inspection still holds at the clone, because only the forking thread has
// run since. The thread takes only one whole message with as many descriptors
// as it must have. The caller gets everything else after a thaw. After a fork
// the thread erases the request, closes the descriptors, and waits for the next
// one without a thaw. The duties of the caller are in
// docs/design/172-armed-template.md.
//
// # Rebuild
//
//	rebuild_linux.go; clone(2), sigreturn(2)
//
// The child starts a thread for each slot. The clone has the runtime's flags,
// the slot's thread pointer as TLS, and the frame as stack. The kernel writes
// the new thread id into m.procid. The thread only calls rt_sigreturn. That
// restores registers, mask and alternate stack, as if the handler had returned.
// If the thread was in a system call, it gets EINTR or makes the call again.
//
// The forking thread does not wait for this. It sets m.procid of the others to
// 0. To the runtime they are now threads that the kernel has not let run yet.
// It starts another thread, the builder, and goes on. The next Fork waits for
// the builder's end (CLONE_CHILD_CLEARTID).
//
// With Options.Alone the builder waits (futex(2)) until [Forker.EndAlone] or
// for that time, because page faults are cheaper while one thread runs. To the
// runtime the kernel is slow. One thread starts at once: the one in epoll_pwait
// on the runtime's poller. All others rely on it when there is nothing to do.
// If the builder cannot start a thread, it writes that to stderr and ends the
// child with status [RebuildFailed].
//
// # Poller and descriptors
//
//	fds_linux.go, kinds_linux.go; epoll(7), eventfd(2), dup(2), socketpair(2)
//
// Parent and child would share an epoll instance. So the child makes a new one
// and a new eventfd, under the old numbers. It watches the same descriptors,
// with the same data, which are the runtime's pointers. It writes to the
// eventfd once. A wake-up may have been pending, and the runtime sends no
// second one.
//
// The child keeps 0, 1, 2, Options.Keep, and the runtime's own descriptors:
// the poller's two, and those on the CPU limit of the control group. Every
// other number gets a new file that fits its old one (kinds_linux.go).
// Connections and pipes become one end of a socket pair whose other end is
// closed. Reads return EOF, and goroutines that wait there wake up. If the
// numbers were closed, the child's next sockets would get them, and the
// finalizer of an inherited os.File would close these.
//
// # Random numbers and preemption
//
//	reseed_linux.go, rebuild_linux.go; getrandom(2), vdso(7), signal(7)
//
// The child mixes fresh random bytes into the runtime's random states, one for
// each thread and one for new threads. Otherwise parent and child would draw
// the same numbers from math/rand, and make the same seeds for new maps and
// hashes. The functions of crypto/rand ask the kernel, and its vDSO state is
// wiped in the child (MADV_WIPEONFORK in madvise(2)).
//
// Pending signals are not inherited. The runtime marks the m of a thread before
// it sends SIGURG to preempt it, and sends no second one until that is handled.
// So the child sends SIGURG again to each thread with the mark. Without this a
// collection could wait for that thread for ever. Signal 33, for
// syscall.AllThreadsSyscall, cannot be pending, because the world is stopped
// then.
//
// # Less to copy
//
//	shrink_linux.go, program_linux.go, proc_linux.go
//	madvise(2), proc_pid_pagemap(5), proc_pid_mem(5)
//
// A fork takes 50 µs, and 0.1 µs for each page in memory. [Collapse] makes huge
// pages of memory, but only where it fills them: the first write after a fork
// splits one into 512 small pages in memory. [KeepProgram] has the page tables
// of code and constants copied, in place of some 60 faults in the child.
// [ShedThreads] leaves few threads to freeze and to start.
//
// # What else to know
//
// layout_linux.go finds the runtime's variables by their content, each exactly
// once. Only one offset, g.m, comes from the runtime's source, and it is
// proved. See docs/design/173-frozen-section.md for the rules in frozen code,
// docs/design/174-what-a-forked-child-has.md for what a child inherits, and
// docs/design/176-forks-on-arm64.md for the differences between the processors.
package refork
