/*
 * ledger - keeps the same account in RAM and on its first disk, and compares the two for ever.
 *
 * The disk's first BLOCKS blocks of 4 KiB, in an order that jumps about, and a table in RAM of a word for
 * each. Pass p (from 1) reads a block, which must hold what the table says, p - 1 in each of its
 * words, then writes p all over it, then into the table. Each request is waited for. So a disk that is not of
 * the instant of the RAM and registers it comes with, newer or older, shows at the first block that
 * differs: "torn <block> <found>", and the guest powers off; "bad <status>" when a request failed.
 *
 * At start, when the first pass is over: "up <nonce>". At each new generation: "gen", and when a whole
 * pass has been checked since then "whole <passes> <nonce>". On the serial line 'q' powers off, '?' answers
 * "pass <passes>". Needs 16 MiB of RAM, a disk of 4 MiB whose blocks are zeros.
 *
 *   rbp pass; r12 generation; r13 pass at which to say "whole"; r14 steps in this pass; r15 block
 */
	.include "common.inc"

	.set	BLOCKS, 1024
	.set	STRIDE, 389			/* odd: visits every block, and seldom a neighbour */
	.set	DISK, 0xd0000000		/* the first virtio-mmio window */
	.set	QUEUE_SIZE, 4
	.set	DESC_NEXT, 1
	.set	DESC_WRITE, 2


user_main:
	mov	MAILBOX_GENERATION, %r12
	mov	$-1, %r13
	mov	$DISK, %ebx

	movl	$1, 0x70(%rbx)			/* ACKNOWLEDGE */
	movl	$3, 0x70(%rbx)			/* DRIVER */
	movl	$0, 0x24(%rbx)
	movl	$0, 0x20(%rbx)
	movl	$1, 0x24(%rbx)
	movl	$1, 0x20(%rbx)			/* VERSION_1 */
	movl	$11, 0x70(%rbx)			/* FEATURES_OK */
	movl	$0, 0x30(%rbx)
	movl	$QUEUE_SIZE, 0x38(%rbx)
	lea	desc(%rip), %rax
	movl	%eax, 0x80(%rbx)
	movl	$0, 0x84(%rbx)
	lea	avail(%rip), %rax
	movl	%eax, 0x90(%rbx)
	movl	$0, 0x94(%rbx)
	lea	used(%rip), %rax
	movl	%eax, 0xa0(%rbx)
	movl	$0, 0xa4(%rbx)
	movl	$1, 0x44(%rbx)			/* the queue is ready */
	movl	$15, 0x70(%rbx)			/* DRIVER_OK */

	/* One chain, used over and over: header, data, status. */
	lea	header(%rip), %rax
	mov	%rax, desc + 0(%rip)
	movl	$16, desc + 8(%rip)
	movw	$DESC_NEXT, desc + 12(%rip)
	movw	$1, desc + 14(%rip)
	lea	data(%rip), %rax
	mov	%rax, desc + 16(%rip)
	movl	$4096, desc + 24(%rip)
	movw	$2, desc + 30(%rip)
	lea	status(%rip), %rax
	mov	%rax, desc + 32(%rip)
	movl	$1, desc + 40(%rip)
	movw	$DESC_WRITE, desc + 44(%rip)
	movw	$1, avail(%rip)			/* no interrupts, please */

	mov	$1, %ebp
pass:
	xor	%r14d, %r14d
block:
	xor	%r8d, %r8d			/* IN */
	call	io
	lea	table(%rip), %rdx
	mov	(%rdx, %r15, 8), %rbx
	lea	-1(%rbp), %rax
	cmp	%rax, %rbx
	jne	torn
	lea	data(%rip), %rsi
	mov	$512, %ecx
1:	mov	(%rsi), %rbx
	cmp	%rax, %rbx
	jne	torn
	mov	%rbp, (%rsi)
	add	$8, %rsi
	dec	%ecx
	jnz	1b
	mov	$1, %r8d			/* OUT */
	call	io
	lea	table(%rip), %rdx
	mov	%rbp, (%rdx, %r15, 8)
	add	$STRIDE, %r15d
	and	$(BLOCKS - 1), %r15d
	/* Is this another life? */
	mov	MAILBOX_GENERATION, %rax
	cmp	%rax, %r12
	jne	restored
more:
	inc	%r14d
	cmp	$BLOCKS, %r14d
	jb	block
	cmp	$1, %ebp
	jne	1f
	tell	up_text
	tell	nonce
1:	inc	%rbp
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
	tell	gen_text
	lea	2(%rbp), %r13			/* the end of the pass after this one */
	jmp	more

whole:
	tell	whole_text
	tell_hex %rbp
	tell	space
	tell	nonce
	jmp	listen

torn:
	tell	torn_text
	tell_hex %r15
	tell_hex %rbx
	tell	newline
off:
	mov	$SYS_OFF, %eax
	ud2

/* The data page to block r15 (r8d 1) or from it (0). Changes rax, rdx. */
io:
	movl	%r8d, header(%rip)
	lea	(, %r15, 8), %rax
	mov	%rax, header + 8(%rip)
	mov	$DESC_NEXT, %eax
	test	%r8d, %r8d
	jnz	1f
	or	$DESC_WRITE, %eax
1:	movw	%ax, desc + 28(%rip)
	movb	$0xff, status(%rip)
	/* The ring's entries are all 0: the one chain. */
	mfence
	incw	avail + 2(%rip)
	mfence
	mov	$DISK, %edx
	movl	$0, 0x50(%rdx)
	movzwl	avail + 2(%rip), %eax
2:	pause
	cmpw	%ax, used + 2(%rip)
	jne	2b
	movzbl	status(%rip), %eax
	test	%eax, %eax
	jnz	3f
	ret
3:	push	%rax
	tell	bad_text
	pop	%rax
	call	say_hex
	tell	newline
	jmp	off

	.data
up_text:	.asciz	"up "
gen_text:	.ascii	"gen\n"
pass_text:	.asciz	"pass"
whole_text:	.asciz	"whole"
torn_text:	.asciz	"torn"
bad_text:	.asciz	"bad"
space:		.asciz	" "

	.bss
	.balign	4096
data:	.skip	4096
desc:	.skip	16 * QUEUE_SIZE
avail:	.skip	6 + 2 * QUEUE_SIZE
	.balign	4
used:	.skip	6 + 8 * QUEUE_SIZE
	.balign	16
header:	.skip	16
status:	.skip	1
	.balign	8
table:	.skip	8 * BLOCKS
