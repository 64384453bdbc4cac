#include "textflag.h"

// func cloneForeign(flags, stack uintptr, gone *uint32) uintptr
//
// Starts a thread that sleeps until gone is not zero, and ends.
TEXT ·cloneForeign(SB),NOSPLIT,$0-32
	MOVQ	flags+0(FP), DI
	MOVQ	stack+8(FP), SI
	MOVQ	gone+16(FP), R12	// system calls leave it alone
	XORL	DX, DX			// no thread ids are wanted, the FS base is the creator's
	XORL	R10, R10
	XORL	R8, R8
	MOVL	$56, AX			// clone
	SYSCALL
	TESTQ	AX, AX
	JNE	created
sleep:
	CMPL	(R12), $0
	JNE	end
	MOVQ	R12, DI
	MOVL	$0, SI			// FUTEX_WAIT
	MOVL	$0, DX			// while it is 0
	XORL	R10, R10
	MOVL	$202, AX		// futex
	SYSCALL
	JMP	sleep
end:
	XORL	DI, DI
	MOVL	$60, AX			// exit, of this thread
	SYSCALL
created:
	MOVQ	AX, ret+24(FP)
	RET
