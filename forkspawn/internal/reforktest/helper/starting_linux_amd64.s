#include "textflag.h"

// func holdInFirst(value uint64, release *uint32)
TEXT ·holdInFirst(SB),NOSPLIT,$0-16
	MOVQ	value+0(FP), AX
	MOVQ	release+8(FP), DI
again:
	CMPL	(DI), $0
	JEQ	again
	RET

// func holdInSecond(value uint64, release *uint32)
TEXT ·holdInSecond(SB),NOSPLIT,$0-16
	MOVQ	value+0(FP), CX
	MOVQ	release+8(FP), DI
again:
	CMPL	(DI), $0
	JEQ	again
	RET

// func holdOnStack(value uint64, release *uint32)
TEXT ·holdOnStack(SB),NOSPLIT,$8-16
	MOVQ	value+0(FP), CX
	MOVL	CX, 0(SP)
	XORL	CX, CX
	MOVQ	release+8(FP), DI
again:
	CMPL	(DI), $0
	JEQ	again
	RET
