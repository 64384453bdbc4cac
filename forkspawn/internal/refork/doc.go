// Package refork forks a running Go program without exec: the child is the same program, at the same place, with the
// same heap copy-on-write, and with a runtime that works. linux/amd64, without cgo.
//
//	forker, err := refork.Prepare() // once
//	pid, _, err := forker.Fork(refork.Options{})
//	if err == nil && pid == 0 {
//		// the child
//	}
//
// fork(2) leaves the child one thread, while the runtime, whose memory is copied, believes in all of them: the next
// collection waits for ever for threads that do not exist. A change of the runtime is discussed in golang/go#77032.
// This package needs none: it stops every thread at a known place before the fork, and starts a copy of each at that
// place after it.
//
// # Freeze
//
// freeze_linux_amd64.go, handler_linux_amd64.s; signal(7), sigaction(2), sigaltstack(2), tgkill(2), futex(2)
//
// Every thread is sent signal 34, the one that the runtime neither handles nor blocks. When a handler is called, the
// kernel has put all registers, the FPU's state, the signal mask and the alternate stack of the thread into a frame on
// its stack. The handler notes the frame's address in a slot, with thread id, FS base, g and m, and sleeps on a futex
// until the attempt's number changes. It has no Go stack, takes no lock, and writes to nothing else.
//
// The forking thread blocks all signals, lists /proc/self/task, signals those that are new, and lists again, until all
// of a list were frozen before it was made, and the kernel's own count agrees (an ending thread can cut a list short).
//
// It can fail for a good reason: a thread that is about to end blocks all signals and then wants a lock, which a frozen
// thread may hold. Only a thaw helps. So an attempt ends when a thread that was signalled sleeps, or after 20 ms and later
// more, and others are made, for 4 s. What a thaw must get right: a late handler of one attempt must not write to a slot
// of the next. So handlers count themselves in before they read anything, and out; no attempt begins while one is
// inside.
//
// System calls are interrupted as by any signal: with SA_RESTART, most are made again by the kernel, and those that are
// not end with EINTR, which Go's runtime and standard library expect at all times, as its preemption is a signal too.
//
// # Fork
//
// freeze_linux_amd64.go, inspect_linux_amd64.go; clone(2), getitimer(2), timer_create(2), proc_pid_fdinfo(5)
//
// While all are frozen it is proved that the child can be rebuilt, at every fork: the runtime knows as many threads as
// the kernel; m.procid of each is its id; its FS base lies at the same distance from its m as all others', which no C
// library would allow; random states look like such; the poller is where it was and its list can be read; no CPU
// profile runs or has left timers behind. If anything is not so, the threads go on, and Fork tries again where that can
// help, or returns a *Refused that says what and what to do.
//
// Then clone, with SIGCHLD, and CLONE_PARENT if the child shall be the asking program's (EINVAL for the first process
// of a pid namespace; the signal at its end is that of the forking process itself, SIGCHLD too), CLONE_PIDFD if wanted.
// The parent sends Options.Report if there is one (sendmsg(2)), holds still for as long as that says (ppoll(2)), and wakes its threads.
//
// # Arming
//
// request_linux_amd64.go; ppoll(2), recvmsg(2), signalfd(2)
//
// With Options.Request the process is frozen and inspected before there is a request, which then costs no more than a
// clone. It waits in the frozen section, for the socket and for a signalfd of all signals that the forking thread takes, but for SIGURG and
// SIGCHLD. Every thread blocks them all meanwhile, so one for the process stays pending, which the signalfd tells, and is handled as ever when
// the threads go on. (One that is blocked for good, as it was when the program was started, would end each wait.) What
// was inspected still holds at the clone, as nothing but the forking thread has run since; the descriptors that come
// with the request are added to the list, and the limit of descriptors, which others can change (prlimit(2)), is read then. Only
// a message that is whole, and has as many descriptors as it should, is taken. Everything else is the caller's, after a thaw: a part of a
// message, more than one, descriptors that there was no number for (MSG_CTRUNC in recvmsg(2)), the end of the socket.
//
// When the child is reported its request is wiped, the descriptors are closed, and the next request is waited for, with no thaw in
// between. When there can be no child, or it cannot be reported, the threads go on, and message and descriptors are the caller's.
//
// SIGKILL, SIGSTOP and SIGCONT do to a frozen process what they do to any other, and so does a debugger. Its goroutines and timers stand
// still, and the runtime's own work too: the caller sees to it that it runs now and then, and is not stopped with a
// collection due, which each child would make then. Nor may its goroutine have run for long when it stops: the runtime asks one
// to yield after 10 ms, and a child with that wish waits for threads that it does not have yet (runtime.Gosched).
//
// # Rebuild
//
// rebuild_linux_amd64.go; clone(2), sigreturn(2)
//
// In the child, for each slot: clone of a thread with the flags that the runtime uses, with the slot's FS base as TLS,
// with the frame as its stack, and with m.procid as the place where the kernel writes the new id. All it does is
// rt_sigreturn: that puts back registers, mask and alternate stack, as if the handler had returned. A thread that was
// in a system call sees EINTR, or makes it again.
//
// The forking thread does not wait for this. It sets m.procid of the others to 0, which is what the runtime sees of a
// thread that it has started and that the kernel has not let run yet, starts a thread that does the work, the builder,
// and goes on. The next Fork waits until the kernel says that the builder has ended (CLONE_CHILD_CLEARTID).
//
// With Options.Alone the builder first waits (futex(2)) until Forker.EndAlone is called or that time has passed, as a process of which one
// thread runs has cheaper page faults. To the runtime this is a busy kernel. One thread it starts at once: one that was in
// epoll_pwait on the runtime's poller, for which all others wait when there is nothing to do.
//
// If a thread cannot be had, the child says so on its stderr and ends with status RebuildFailed.
//
// # Netpoller
//
// fds_linux_amd64.go; epoll(7), eventfd(2)
//
// An epoll instance is shared by a fork, so the child gets a new one, and a new eventfd, at the old numbers. Everything
// that the old one watched is watched again, with the same data, the runtime's pointers. The eventfd is written to
// once: a wake-up may have been under way, and the runtime sends no second one.
//
// # Descriptors
//
// fds_linux_amd64.go; dup(2), socketpair(2)
//
// The child keeps 0, 1, 2, the Files of its Options, and what the runtime has open itself: the two of the poller, and
// those on the control group's CPU limit. Every other number is made a copy of one end of a socket pair whose other end
// is closed. It reads as end-of-file, and goroutines that wait for it wake up. It is not closed, because the child's
// next socket would get the number, while an os.File of the parent's that owns it lives on in the child's heap, to be
// closed when it is collected. Such Files and connections should be dropped; nothing happens if they are not.
//
// # Reseeding
//
// reseed_linux_amd64.go; getrandom(2), vdso(7)
//
// The runtime's random states, one a thread and one for new threads, are changed by fresh random bytes; else parent and
// child would draw the same numbers from math/rand, and make the same new map and hash seeds. crypto/rand asks the
// kernel, whose vDSO state is wiped in the child (MADV_WIPEONFORK in madvise(2)).
//
// # Wake-ups
//
// rebuild_linux_amd64.go; signal(7)
//
// Pending signals are not inherited. The runtime marks the m of a thread that it has sent SIGURG to, to preempt it, and
// sends no second one before that is handled; so the threads with the mark are sent it once more. Without it a
// collection would wait for such a thread for ever. The other signal that the runtime sends itself, 33 for
// syscall.AllThreadsSyscall, cannot be under way: the world is stopped then, and the forking goroutine is running.
//
// # Less to copy
//
// shrink_linux_amd64.go, program_linux_amd64.go, resident_linux_amd64.go; madvise(2), proc_pid_pagemap(5), proc_pid_mem(5)
//
// A fork takes about 50 µs and 0.1 µs for each page that is in memory. Collapse puts what fills huge pages into them; a piece that does not
// is left alone, as the first write after a fork splits a huge page, into 512 that all are there. Nothing here reads what
// was never written to, since that fills page tables too. KeepProgram has the page tables of code and constants copied, in
// place of some 60 faults in the child. ShedThreads leaves few threads to freeze and start. What a fork writes to lies on few pages itself.
//
// # Where things are
//
// layout_linux_amd64.go; proc_pid_mem(5), proc_pid_maps(5)
//
// Only one offset is taken from the runtime's source: g.m, and it is proved. m.procid is where four threads have their
// ids; a random state is where 32 numbers are what a seed gives (package math/rand/v2 has the same generator); the
// poller is the epoll instance that watches an eventfd with a variable of the program as its data. Each must be found
// exactly once. The mark of a preemption is the word that SIGURG clears, next to one that it counts up; where there is
// none (GODEBUG=asyncpreemptoff=1) all threads are sent the signal.
//
// # The frozen section
//
// Between the blocking of signals and their release the code makes raw system calls, touches one mapping that is no
// part of Go's heap (state_linux_amd64.go), and reads and sets numbers in the runtime's memory. It cannot allocate or
// wait for a lock. It runs on a stack of its own, with a g that is all zeros, so that no function asks for more stack,
// or lets itself be preempted; functions marked nosplit would do as well, were it not for the linker's limit of 800
// bytes for all of them together, which depends on the compiler and its options (-gcflags=-N, profiles). No signal
// handler sees that stack and g, which it would take for the goroutine's.
//
// # What a child is not given
//
// It has copies of all goroutines of the parent, wherever they were; a program that forks runs none but those that the
// child shall have. What was made from random numbers before is the same in all children: maphash.Seed, the seeds of
// maps, TLS ticket keys. Unflushed buffers are duplicated. os.Process values of the parent's children are of no use.
// What the kernel keeps for each thread, its CPU affinity, priority, credentials, namespaces and seccomp filters, is
// that of the forking thread in all of them. Memory mapped MAP_SHARED is shared. Handlers and os/signal's channels
// stay: signal.Reset. Its command line and environment in /proc are the parent's. PR_SET_PDEATHSIG is not inherited
// (prctl(2)); set in a Sibling, it follows the thread that started this process, not the one that forked.
package refork
