/*
 * churn - rewrites AREA_MIB (32) MiB of RAM for ever and knows at each word what the last pass left there.
 *
 * Pass p makes word i the value p * PASS + i * STEP (modulo 2^64), after checking that it holds
 * what pass p - 1 made it. So an image of RAM that is not of one instant, or of another instant than the
 * registers it is restored with, shows at the first word that is newer or older than it may be:
 * "torn <address>", and the guest powers off.
 *
 * At start, when the first pass is over: "up <nonce>". At each new generation: "gen", and when a
 * whole pass has been checked since then "whole <passes> <nonce>". On the serial line 'q' powers off, '?' answers
 * "pass <passes>". Needs AREA_MIB
 * + 16 MiB of RAM.
 *
 *   rbx the value of the word at rsi; rbp passes; r12 generation; r13 pass at which to say "whole"
 */
	.include "common.inc"

	.set	AREA, 16 << 20
	.ifndef	AREA_MIB
	.set	AREA_MIB, 32
	.endif
	.set	AREA_END, AREA + (AREA_MIB << 20)

user_main:
	mov	MAILBOX_GENERATION, %r12
	movabs	$0x9e3779b97f4a7c15, %r14	/* PASS */
	movabs	$0xd1b54a32d192ed03, %r15	/* STEP */
	mov	$-1, %r13
	xor	%ebp, %ebp
	/* Pass 0 fills. */
	xor	%ebx, %ebx
	mov	$AREA, %esi
1:	mov	%rbx, (%rsi)
	add	%r15, %rbx
	add	$8, %rsi
	cmp	$AREA_END, %rsi
	jb	1b
	tell	up_text
	tell	nonce

pass:
	mov	%rbp, %rbx
	imul	%r14, %rbx
	mov	$AREA, %esi
word:
	cmp	%rbx, (%rsi)
	jne	torn
	lea	(%rbx, %r14), %rax
	mov	%rax, (%rsi)
	add	%r15, %rbx
	add	$8, %rsi
	test	$0xffff, %esi
	jnz	word
	/* Every 64 KiB: is this another life? */
	mov	MAILBOX_GENERATION, %rax
	cmp	%rax, %r12
	jne	restored
more:
	cmp	$AREA_END, %rsi
	jb	word
	inc	%rbp
	cmp	%r13, %rbp
	je	whole
listen:
	getc
	cmp	$'q', %eax
	je	off
	cmp	$'?', %eax
	jne	pass
	tell	pass_text
	tell_hex %rbp
	tell	newline
	jmp	pass

restored:
	mov	%rax, %r12
	push	%rsi
	tell	gen_text
	pop	%rsi
	lea	2(%rbp), %r13		/* the end of the pass after this one */
	jmp	more

whole:
	tell	whole_text
	tell_hex %rbp
	tell	space
	tell	nonce
	jmp	listen

torn:
	push	%rsi
	tell	torn_text
	pop	%rax
	call	say_hex
	tell	newline
off:
	mov	$SYS_OFF, %eax
	ud2

	.data
up_text:	.asciz	"up "
gen_text:	.ascii	"gen\n"
pass_text:	.asciz	"pass"
whole_text:	.asciz	"whole"
torn_text:	.asciz	"torn"
space:		.asciz	" "
