#include "textflag.h"

// func holdInFirst(value uint64, release *uint32)
TEXT ·holdInFirst(SB),NOSPLIT,$0-16
	MOVD	value+0(FP), R0
	MOVD	release+8(FP), R2
again:
	MOVWU	(R2), R3
	CBZW	R3, again
	RET

// func holdInSecond(value uint64, release *uint32)
TEXT ·holdInSecond(SB),NOSPLIT,$0-16
	MOVD	value+0(FP), R1
	MOVD	release+8(FP), R2
again:
	MOVWU	(R2), R3
	CBZW	R3, again
	RET

// func holdOnStack(value uint64, release *uint32)
TEXT ·holdOnStack(SB),NOSPLIT,$16-16
	MOVD	value+0(FP), R3
	MOVW	R3, 8(RSP)
	MOVD	release+8(FP), R2
again:
	MOVWU	(R2), R3
	CBZW	R3, again
	RET
