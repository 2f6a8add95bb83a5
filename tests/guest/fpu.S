/*
 * fpu - keeps known values in every general, x87 and AVX register and checks them after a
 * restore.
 *
 * At start it loads them and says "up <nonce>", whose newline comes last; then only rax is used, to
 * watch the mailbox page. At a new generation: "regs ok" or "regs bad <which>": bit 0 general, 1 AVX, 2 x87, 3
 * MXCSR and the x87 control word. Then it powers off.
 */
	.include "common.inc"

user_main:
	mov	MAILBOX_GENERATION, %rax
	mov	%rax, generation(%rip)
	tell	up_text
	lea	nonce(%rip), %rsi
	lea	hex_text + 1(%rip), %rdi
	mov	$16, %ecx
	rep movsb
	tell	hex_text

	/* Patterns: byte i of the table is 7 * i + 3, so every register differs. */
	lea	want(%rip), %rdi
	mov	$3, %al
	mov	$(16 * 32), %ecx
1:	mov	%al, (%rdi)
	add	$7, %al
	inc	%rdi
	dec	%ecx
	jnz	1b

	fninit
	fldcw	control(%rip)
	fldpi
	fldl2e
	fldl2t
	fldlg2
	fldln2
	fld1
	fldz
	fildll	want(%rip)
	ldmxcsr	mxcsr(%rip)
	.irp	n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
	vmovdqu	want + 32 * \n(%rip), %ymm\n
	.endr
	/* What the x87 registers look like in memory, for later. */
	fxsave64 before(%rip)

	mov	%rsp, saved_rsp(%rip)
	lea	want(%rip), %rax
	mov	0(%rax), %rbx
	mov	8(%rax), %rcx
	mov	16(%rax), %rdx
	mov	24(%rax), %rsi
	mov	40(%rax), %rbp
	mov	56(%rax), %r8
	mov	64(%rax), %r9
	mov	72(%rax), %r10
	mov	80(%rax), %r11
	mov	88(%rax), %r12
	mov	96(%rax), %r13
	mov	104(%rax), %r14
	mov	112(%rax), %r15
	mov	$'\n', %edi
	mov	$SYS_PUTC, %eax
	ud2
	lea	want(%rip), %rax
	mov	32(%rax), %rdi
	mov	48(%rax), %rsp

1:	mov	MAILBOX_GENERATION, %rax
	cmp	generation(%rip), %rax
	je	1b

	/* Compare without losing any: the result collects in memory. */
	lea	want(%rip), %rax
	.macro	same reg, off
	cmp	\off(%rax), \reg
	je	2f
	orl	$1, bad(%rip)
2:
	.endm
	same	%rbx, 0
	same	%rcx, 8
	same	%rdx, 16
	same	%rsi, 24
	same	%rdi, 32
	same	%rbp, 40
	same	%rsp, 48
	same	%r8, 56
	same	%r9, 64
	same	%r10, 72
	same	%r11, 80
	same	%r12, 88
	same	%r13, 96
	same	%r14, 104
	same	%r15, 112
	mov	saved_rsp(%rip), %rsp

	.irp	n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
	vmovdqu	%ymm\n, got(%rip)
	lea	got(%rip), %rsi
	lea	want + 32 * \n(%rip), %rdi
	mov	$32, %ecx
	repe cmpsb
	je	3f
	orl	$2, bad(%rip)
3:
	.endr

	fxsave64 after(%rip)
	lea	before + 32(%rip), %rsi
	lea	after + 32(%rip), %rdi
	mov	$128, %ecx
	repe cmpsb
	je	4f
	orl	$4, bad(%rip)
4:	mov	before + 24(%rip), %eax
	cmp	after + 24(%rip), %eax
	jne	5f
	mov	before(%rip), %ax
	cmp	after(%rip), %ax
	je	6f
5:	orl	$8, bad(%rip)
6:
	cmpl	$0, bad(%rip)
	lea	ok_text(%rip), %rsi
	je	7f
	tell	bad_text
	mov	bad(%rip), %eax
	call	say_hex
	lea	newline(%rip), %rsi
7:	call	say
	mov	$SYS_OFF, %eax
	ud2

	.data
	.balign	8
generation:	.quad	0
saved_rsp:	.quad	0
bad:		.long	0
mxcsr:		.long	0x9fc0		/* denormals are zero, flush to zero, toward +inf off: not the default */
control:	.word	0x027f		/* double precision: not the default */
up_text:	.asciz	"up"
ok_text:	.ascii	"regs ok\n"
bad_text:	.asciz	"regs bad"

	.bss
	.balign	64
before:		.skip	512
after:		.skip	512
want:		.skip	512
got:		.skip	32
