/*
 * reach - touches RAM that nothing has ever touched, first thing after a restore.
 *
 * At start: r12 = 0 and "up <nonce>", then it watches the mailbox page. At a new generation r12 says
 * how to touch (a test sets it in the saved registers), and "reach ok <kind>" or "reach bad
 * <kind>" says whether memory behaved like memory. Then it powers off. Needs 512 MiB of RAM.
 */
	.include "common.inc"

	.set	FAR, 256 << 20

user_main:
	xor	%r12d, %r12d
	movabs	$0x1122334455667788, %rbx
	mov	$FAR, %ebp
	mov	MAILBOX_GENERATION, %r13
	tell	up_text
	tell	nonce
1:	cmp	MAILBOX_GENERATION, %r13
	je	1b

	cmp	$1, %r12
	je	store4
	cmp	$2, %r12
	je	store1
	cmp	$3, %r12
	je	load8
	cmp	$4, %r12
	je	fill
	cmp	$5, %r12
	je	across
	cmp	$6, %r12
	je	atomic
	cmp	$7, %r12
	je	onto_stack

	mov	%rbx, (%rbp)
	cmp	%rbx, (%rbp)
	jmp	verdict
store4:	mov	%ebx, 4(%rbp)
	mov	4(%rbp), %eax
	cmp	%ebx, %eax
	jne	verdict
	cmpl	$0, (%rbp)
	jmp	verdict
store1:	mov	%bl, 3(%rbp)
	cmpl	$0x88000000, (%rbp)
	jmp	verdict
load8:	mov	(%rbp), %rax
	test	%rax, %rax
	jne	verdict
	mov	%rbx, (%rbp)
	cmp	%rbx, (%rbp)
	jmp	verdict
/* 64 KiB by rep stos: the first store leaves KVM, the rest must not be lost. */
fill:	mov	%rbx, %rax
	mov	%rbp, %rdi
	mov	$8192, %ecx
	rep stosq
	mov	%rbp, %rdi
	mov	$8192, %ecx
	repe scasq
	jne	verdict
	cmpq	$0, 65536(%rbp)
	jmp	verdict
/* Eight bytes over the end of a page: two accesses of four. */
across:	mov	%rbx, 4092(%rbp)
	cmp	%rbx, 4092(%rbp)
	jne	verdict
	cmpl	$0x55667788, 4092(%rbp)
	jne	verdict
	cmpl	$0x11223344, 4096(%rbp)
	jmp	verdict
atomic:	mov	$5, %eax
	lock xadd %rax, (%rbp)
	test	%rax, %rax
	jne	verdict
	cmpq	$5, (%rbp)
	jmp	verdict
onto_stack:
	mov	%rsp, %r14
	lea	4096(%rbp), %rsp
	call	2f
2:	pop	%rax
	mov	%r14, %rsp
	lea	2b(%rip), %rcx
	cmp	%rax, %rcx

verdict:
	lea	ok_text(%rip), %rsi
	je	3f
	lea	bad_text(%rip), %rsi
3:	call	say
	tell_hex %r12
	tell	newline
	mov	$SYS_OFF, %eax
	ud2

	.data
up_text:	.asciz	"up "
ok_text:	.asciz	"reach ok"
bad_text:	.asciz	"reach bad"
