//go:build !portable

#include "textflag.h"

// func clone3(args *cloneArgs, size uintptr) (pid, errno uintptr)
//
// The clone3 system call with CLONE_VM and CLONE_VFORK. Child and parent come back here one after
// the other on one and the same stack. The return address is in the link register, which each of
// the two has for itself. This function puts nothing on the stack but its results.
TEXT ·clone3(SB),NOSPLIT|NOFRAME,$0-32
	MOVD	args+0(FP), R0		// clone3's first argument
	MOVD	size+8(FP), R1		// and its second
	MOVD	$435, R8		// SYS_clone3
	SVC				// the child returns first, with 0; the parent when the child is gone from this memory
	CMN	$4095, R0		// -4095 and up are errors
	BCC	ok
	NEG	R0, R0
	MOVD	ZR, pid+16(FP)
	MOVD	R0, errno+24(FP)
	RET
ok:
	MOVD	R0, pid+16(FP)
	MOVD	ZR, errno+24(FP)
	RET
