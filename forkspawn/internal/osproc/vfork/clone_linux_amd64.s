//go:build !portable

#include "textflag.h"

// func clone3(args *cloneArgs, size uintptr) (pid, errno uintptr)
//
// The clone3 system call with CLONE_VM and CLONE_VFORK. Child and parent come back here one after
// the other on one and the same stack. The child's later calls overwrite the stack below the caller's
// frame, where the return address of this function lies; so it is kept in a register, which each
// of the two has for itself, and put back after the call.
TEXT ·clone3(SB),NOSPLIT|NOFRAME,$0-32
	MOVQ	args+0(FP), DI		// clone3's first argument
	MOVQ	size+8(FP), SI		// and its second
	MOVQ	$435, AX		// SYS_clone3
	POPQ	R12			// the return address; system calls leave R12 alone
	SYSCALL				// the child returns first, with 0; the parent when the child is gone from this memory
	PUSHQ	R12			// each puts the return address back
	CMPQ	AX, $0xfffffffffffff001	// -4095 and up are errors
	JCC	failed
	MOVQ	AX, pid+16(FP)
	MOVQ	$0, errno+24(FP)
	RET
failed:
	NEGQ	AX
	MOVQ	$0, pid+16(FP)
	MOVQ	AX, errno+24(FP)
	RET
