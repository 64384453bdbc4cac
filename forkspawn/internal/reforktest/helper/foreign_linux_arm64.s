#include "textflag.h"

// func cloneForeign(flags, stack uintptr, gone *uint32) uintptr
//
// Starts a thread that sleeps until gone is not zero, and ends.
TEXT ·cloneForeign(SB),NOSPLIT,$0-32
	MOVD	flags+0(FP), R0
	MOVD	stack+8(FP), R1
	MOVD	gone+16(FP), R19	// system calls leave it alone
	MOVD	ZR, R2			// no thread ids are wanted, the thread pointer is the creator's
	MOVD	ZR, R3
	MOVD	ZR, R4
	MOVD	$220, R8		// clone
	SVC
	CBNZ	R0, created
sleep:
	MOVWU	(R19), R0
	CBNZW	R0, end
	MOVD	R19, R0
	MOVD	ZR, R1			// FUTEX_WAIT
	MOVD	ZR, R2			// while it is 0
	MOVD	ZR, R3
	MOVD	$98, R8			// futex
	SVC
	JMP	sleep
end:
	MOVD	ZR, R0
	MOVD	$93, R8			// exit, of this thread
	SVC
created:
	MOVD	R0, ret+24(FP)
	RET
