#include "go_asm.h"
#include "textflag.h"

// The handler of the freeze signal. The kernel calls it on the thread's alternate
// stack or, without one, on the interrupted stack. SP points to the signal frame. The
// handler calls nothing and uses no stack. The frame has the whole state of the thread,
// and rt_sigreturn restores all registers. Signals are blocked in the handler.
//
// Here the order of loads and stores must be made, unlike on amd64. A load-acquire
// (LDAR, LDAXR) comes before all that follows, a store-release (STLR, STLXR) after all
// that is before, and a load-acquire does not overtake a store-release. sync/atomic, on
// the other side, has the same instructions, or others with the same order.
TEXT ·handler(SB),NOSPLIT|NOFRAME|TOPFRAME,$0
	MOVD	·shared(SB), R19		// the arena
	MOVD	$arena_inside, R20
	ADD	R19, R20
enter:
	LDAXRW	(R20), R0			// count in, before anything is read:
	ADDW	$1, R0
	STLXRW	R0, (R20), R1			// the loads of gen and active cannot overtake this
	CBNZW	R1, enter
	MOVD	$arena_gen, R21
	ADD	R19, R21
	LDARW	(R21), R22			// the attempt; read before active, see freeze
	MOVD	$arena_active, R0
	ADD	R19, R0
	LDARW	(R0), R0			// is there an attempt at all?
	CBZW	R0, leave			// no: a late signal, or one of other code
	MOVD	$arena_taken, R23
	ADD	R19, R23
take:
	LDAXRW	(R23), R24			// take a slot
	ADDW	$1, R24, R0
	STLXRW	R0, (R23), R1
	CBNZW	R1, take
	CMPW	$const_maxThreads, R24		// is there one?
	BHS	leave
	MOVD	$slot__size, R0
	MUL	R0, R24				// its offset in the array
	MOVD	$arena_slots, R0
	ADD	R19, R0
	ADD	R0, R24				// its address
	MOVD	RSP, R0
	MOVD	R0, slot_frame(R24)		// the frame; findM finds g and m in it
	MRS	TPIDR_EL0, R0
	MOVD	R0, slot_tls(R24)
	MOVD	$178, R8			// gettid
	SVC					// overwrites R0, as every system call
	MOVW	R0, slot_tid(R24)
	ADD	$slot_gen, R24, R0
	STLRW	R22, (R0)			// the slot is whole: who sees gen sees the rest
wait:
	MOVD	R21, R0				// sleep until the attempt ends
	MOVD	$128, R1			// FUTEX_WAIT_PRIVATE
	MOVD	R22, R2				// while gen is still this
	MOVD	ZR, R3				// for ever
	MOVD	$98, R8				// futex
	SVC
	LDARW	(R21), R0			// woken by something else?
	CMPW	R0, R22
	BEQ	wait
leave:
	LDAXRW	(R20), R0			// count out
	SUBW	$1, R0
	STLXRW	R0, (R20), R1			// after all else
	CBNZW	R1, leave
	MOVD	$139, R8			// rt_sigreturn
	SVC					// does not return

// func handlerPC() uintptr
//
// The handler's own address. A func value of Go would be the address of a wrapper.
TEXT ·handlerPC(SB),NOSPLIT,$0-8
	MOVD	$·handler(SB), R0
	MOVD	R0, ret+0(FP)
	RET

// func threadPointer() uintptr
TEXT ·threadPointer(SB),NOSPLIT,$0-8
	MRS	TPIDR_EL0, R0
	MOVD	R0, ret+0(FP)
	RET

// func currentG() uintptr
TEXT ·currentG(SB),NOSPLIT,$0-8
	MOVD	g, ret+0(FP)
	RET

// func resume(flags, stack, tid, tls uintptr) uintptr
//
// The clone system call for a thread that continues at a signal frame. It returns
// the new thread's id, or an errno as a number from -4095 to -1.
TEXT ·resume(SB),NOSPLIT,$0-40
	MOVD	flags+0(FP), R0
	MOVD	stack+8(FP), R1			// the new thread's SP: the frame
	MOVD	tid+16(FP), R2			// where the kernel writes its id: m.procid
	MOVD	tls+24(FP), R3			// its thread pointer
	MOVD	ZR, R4				// no child_tid
	MOVD	$220, R8			// clone
	SVC					// both threads return
	CBNZ	R0, created
	MOVD	$139, R8			// the new thread: rt_sigreturn, and it continues where the old one was
	SVC					// does not return
created:
	MOVD	R0, ret+32(FP)
	RET

// func startBuilder(flags, stack, tid, tls uintptr, fn func(*arena), a *arena) uintptr
//
// The clone system call for a thread that calls fn with a, and ends. It returns the
// same as resume.
TEXT ·startBuilder(SB),NOSPLIT,$0-56
	MOVD	flags+0(FP), R0
	MOVD	stack+8(FP), R1			// the new thread's SP
	MOVD	ZR, R2				// no parent_tid
	MOVD	tls+24(FP), R3			// its thread pointer; its g is below
	MOVD	tid+16(FP), R4			// the kernel clears this when the thread has ended
	MOVD	fn+32(FP), R26			// the new thread gets the registers unchanged
	MOVD	a+40(FP), R19
	MOVD	$220, R8			// clone
	SVC					// both threads return
	CBNZ	R0, started
	MOVD	R19, R0				// the new thread: Go's internal ABI has the first argument in R0,
	MOVD	-8(R3), g			// g in R28,
	MOVD	(R26), R20			// and the func value in R26, which points to the code's address;
	BL	(R20)				// it can use the 7 words above SP
	MOVD	ZR, R0
	MOVD	$93, R8				// exit, of this thread
	SVC					// does not return
started:
	MOVD	R0, ret+48(FP)
	RET

// func call(fn func(*arena), a *arena, top, zeroG uintptr)
TEXT ·call(SB),NOSPLIT,$0-32
	MOVD	fn+0(FP), R26			// as above
	MOVD	a+8(FP), R0
	MOVD	top+16(FP), R1
	MOVD	zeroG+24(FP), R2
	MOVD	RSP, R3
	MOVD	R3, 32(R1)			// the goroutine's stack, above the words of fn
	MOVD	g, 40(R1)			// and its g
	MOVD	R2, g
	MOVD	R1, RSP
	MOVD	(R26), R4
	BL	(R4)
	MOVD	40(RSP), g			// restore both
	MOVD	32(RSP), R3
	MOVD	R3, RSP
	RET
