#include "go_asm.h"
#include "textflag.h"

// The handler of the freeze signal. The kernel calls it on the thread's alternate
// stack or, without one, on the interrupted stack. SP points to the signal frame,
// whose first word is the restorer's address. The handler calls nothing and uses no
// stack. The frame has the whole state of the thread, and rt_sigreturn restores all
// registers. Signals are blocked in the handler.
TEXT ·handler(SB),NOSPLIT|NOFRAME|TOPFRAME,$0
	MOVQ	·shared(SB), BX			// the arena
	LOCK					// count in, before anything is read
	INCL	arena_inside(BX)
	MOVL	arena_gen(BX), R12		// the attempt; read before active, see freeze
	CMPL	arena_active(BX), $0		// is there an attempt at all?
	JEQ	leave				// no: a late signal, or one of other code
	MOVL	$1, R13				// take a slot
	LOCK
	XADDL	R13, arena_taken(BX)
	CMPL	R13, $const_maxThreads		// is there one?
	JAE	leave
	IMULQ	$slot__size, R13		// its offset in the array
	LEAQ	arena_slots(BX)(R13*1), R13	// its address
	MOVQ	SP, slot_frame(R13)		// the frame
	MOVL	$186, AX			// gettid
	SYSCALL					// overwrites CX and R11, as every system call
	MOVL	AX, slot_tid(R13)
	MOVQ	$0, slot_tls(R13)
	MOVQ	$0, slot_g(R13)
	MOVQ	$0, slot_m(R13)
	MOVL	$0x1003, DI			// ARCH_GET_FS
	LEAQ	slot_tls(R13), SI
	MOVL	$158, AX			// arch_prctl
	SYSCALL
	MOVQ	slot_tls(R13), CX		// no FS base: not a thread of the Go runtime
	TESTQ	CX, CX
	JEQ	filled
	MOVQ	-8(CX), CX			// g is at FS-8, the local-exec TLS slot of Go
	MOVQ	CX, slot_g(R13)
	TESTQ	CX, CX
	JEQ	filled
	MOVQ	const_offsetM(CX), CX		// g.m
	MOVQ	CX, slot_m(R13)
filled:
	MOVL	R12, slot_gen(R13)		// the slot is whole; amd64 keeps the order of stores
wait:
	LEAQ	arena_gen(BX), DI		// sleep until the attempt ends
	MOVL	$128, SI			// FUTEX_WAIT_PRIVATE
	MOVL	R12, DX				// while gen is still this
	XORL	R10, R10			// for ever
	MOVL	$202, AX			// futex
	SYSCALL
	CMPL	R12, arena_gen(BX)		// woken by something else?
	JEQ	wait
leave:
	LOCK
	DECL	arena_inside(BX)		// count out
	ADDQ	$8, SP				// where rt_sigreturn expects it: past the restorer's address
	MOVL	$15, AX				// rt_sigreturn
	SYSCALL					// does not return

// The kernel needs a restorer on amd64. The handler does not return to it.
TEXT ·restorer(SB),NOSPLIT|NOFRAME|TOPFRAME,$0
	MOVL	$15, AX				// rt_sigreturn
	SYSCALL					// does not return

// func handlerPC() uintptr
//
// The handler's own address. A func value of Go would be the address of a wrapper.
TEXT ·handlerPC(SB),NOSPLIT,$0-8
	LEAQ	·handler(SB), AX
	MOVQ	AX, ret+0(FP)
	RET

// func restorerPC() uintptr
TEXT ·restorerPC(SB),NOSPLIT,$0-8
	LEAQ	·restorer(SB), AX
	MOVQ	AX, ret+0(FP)
	RET

// func threadPointer() uintptr
TEXT ·threadPointer(SB),NOSPLIT,$0-8
	MOVQ	$0, ret+0(FP)
	MOVL	$0x1003, DI			// ARCH_GET_FS
	LEAQ	ret+0(FP), SI
	MOVL	$158, AX			// arch_prctl
	SYSCALL
	RET

// func currentG() uintptr
TEXT ·currentG(SB),NOSPLIT,$0-8
	MOVQ	(TLS), AX			// this thread's g
	MOVQ	AX, ret+0(FP)
	RET

// func resume(flags, stack, tid, tls uintptr) uintptr
//
// The clone system call for a thread that continues at a signal frame. It returns
// the new thread's id, or an errno as a number from -4095 to -1.
TEXT ·resume(SB),NOSPLIT,$0-40
	MOVQ	flags+0(FP), DI
	MOVQ	stack+8(FP), SI			// the new thread's SP: the frame, past its first word
	MOVQ	tid+16(FP), DX			// where the kernel writes its id: m.procid
	XORL	R10, R10			// no child_tid
	MOVQ	tls+24(FP), R8			// its FS base
	MOVL	$56, AX				// clone
	SYSCALL					// both threads return
	TESTQ	AX, AX
	JNE	created
	MOVL	$15, AX				// the new thread: rt_sigreturn, and it continues where the old one was
	SYSCALL					// does not return
created:
	MOVQ	AX, ret+32(FP)
	RET

// func startBuilder(flags, stack, tid, tls uintptr, fn func(*arena), a *arena) uintptr
//
// The clone system call for a thread that calls fn with a, and ends. It returns the
// same as resume.
TEXT ·startBuilder(SB),NOSPLIT,$0-56
	MOVQ	flags+0(FP), DI
	MOVQ	stack+8(FP), SI			// the new thread's SP
	XORL	DX, DX				// no parent_tid
	MOVQ	tid+16(FP), R10			// the kernel clears this when the thread has ended
	MOVQ	tls+24(FP), R8			// its FS base; its g is below
	MOVQ	fn+32(FP), R12			// the new thread gets the registers unchanged
	MOVQ	a+40(FP), R13
	MOVL	$56, AX				// clone
	SYSCALL					// both threads return
	TESTQ	AX, AX
	JNE	started
	MOVQ	R13, AX				// the new thread: Go's internal ABI has the first argument in AX,
	MOVQ	(TLS), R14			// g in R14,
	PXOR	X15, X15			// zero in X15,
	MOVQ	R12, DX				// and the func value in DX,
	MOVQ	0(DX), R12			// which points to the code's address;
	CALL	R12				// it can use the 8 words above the return address
	XORL	DI, DI
	MOVL	$60, AX				// exit, of this thread
	SYSCALL					// does not return
started:
	MOVQ	AX, ret+48(FP)
	RET

// func call(fn func(*arena), a *arena, top, zeroG uintptr)
TEXT ·call(SB),NOSPLIT,$0-32
	MOVQ	fn+0(FP), DX			// as above
	MOVQ	a+8(FP), AX
	MOVQ	top+16(FP), R12
	MOVQ	zeroG+24(FP), R14
	PXOR	X15, X15
	MOVQ	SP, 32(R12)			// the goroutine's stack, above the words of fn
	MOVQ	TLS, R13			// (TLS) can be read as it is, but not written, in every build mode
	MOVQ	0(R13)(TLS*1), BX
	MOVQ	BX, 40(R12)			// and its g
	MOVQ	R14, 0(R13)(TLS*1)
	MOVQ	R12, SP
	MOVQ	0(DX), R12
	CALL	R12
	MOVQ	40(SP), R14			// restore both
	MOVQ	TLS, R13
	MOVQ	R14, 0(R13)(TLS*1)
	MOVQ	32(SP), SP
	RET
