/*
 * paint - memory a test can predict: changes its 4 MiB only when told, by a rule the test has, too.
 *
 * "p<16 hexadecimal digits>\n" on the serial line paints from that seed: 1 + (seed & 127) times the next number x of
 * xorshift64 names a page and what becomes of it (doing 0: zeros; 1: one word of it is x; else words x,
 * x + STEP, x + 2 * STEP ...). "painted <paints> <sum>" follows, the number of paints being kept in a register and the sum
 * taken of all 4 MiB. '?' answers "sum <paints> <sum>"; a new generation says "gen <number> <paints> <sum>"; 'q' powers off.
 * At start: "up <nonce>". Needs 32 MiB of RAM.
 *
 *   rbp paints; r12 generation; rbx seed, then x; r13 times left; r14 STEP
 */
	.include "common.inc"

	.set	AREA, 16 << 20
	.set	PAGES, 1024
	.set	AREA_END, AREA + PAGES * 4096

user_main:
	mov	MAILBOX_GENERATION, %r12
	movabs	$0xd1b54a32d192ed03, %r14	/* STEP */
	xor	%ebp, %ebp
	tell	up_text
	tell	nonce

idle:
	mov	MAILBOX_GENERATION, %rax
	cmp	%rax, %r12
	jne	restored
	getc
	cmp	$'p', %eax
	je	paint
	cmp	$'q', %eax
	je	off
	cmp	$'?', %eax
	jne	1f
	tell	sum_text
	jmp	tell
	/* A look at the line costs more than all of this: not too often. */
1:	mov	$20000, %ecx
2:	pause
	dec	%ecx
	jnz	2b
	jmp	idle

restored:
	mov	%rax, %r12
	tell	gen_text
	tell_hex %r12
	jmp	tell

paint:
	xor	%ebx, %ebx
1:	getc
	cmp	$-1, %eax
	je	1b
	cmp	$'\n', %eax
	je	3f
	sub	$'0', %eax
	cmp	$10, %eax
	jb	2f
	sub	$('a' - '0' - 10), %eax
2:	shl	$4, %rbx
	or	%rax, %rbx
	jmp	1b
3:	mov	%ebx, %r13d
	and	$127, %r13d
	inc	%r13d
stroke:
	mov	%rbx, %rdx
	shl	$13, %rdx
	xor	%rdx, %rbx
	mov	%rbx, %rdx
	shr	$7, %rdx
	xor	%rdx, %rbx
	mov	%rbx, %rdx
	shl	$17, %rdx
	xor	%rdx, %rbx
	/* The page: bits 20 to 29. */
	mov	%rbx, %rdi
	shr	$20, %rdi
	and	$(PAGES - 1), %edi
	shl	$12, %edi
	add	$AREA, %edi
	mov	%ebx, %eax
	and	$7, %eax
	cmp	$1, %eax
	je	one_word
	mov	%rbx, %rdx
	mov	%r14, %r15
	ja	1f
	xor	%edx, %edx
	xor	%r15d, %r15d
1:	mov	$512, %ecx
2:	mov	%rdx, (%rdi)
	add	%r15, %rdx
	add	$8, %rdi
	dec	%ecx
	jnz	2b
	jmp	next
one_word:
	mov	%rbx, %rax
	shr	$32, %rax
	and	$511, %eax
	mov	%rbx, (%rdi, %rax, 8)
next:
	dec	%r13d
	jnz	stroke
	inc	%rbp
	tell	painted_text

/* " <paints> <sum>\n" */
tell:
	tell_hex %rbp
	xor	%eax, %eax
	mov	$AREA, %edi
1:	rol	$1, %rax
	add	(%rdi), %rax
	add	$8, %rdi
	cmp	$AREA_END, %rdi
	jb	1b
	call	say_hex
	tell	newline
	jmp	idle

off:
	mov	$SYS_OFF, %eax
	ud2

	.data
up_text:	.asciz	"up "
gen_text:	.asciz	"gen"
sum_text:	.asciz	"sum"
painted_text:	.asciz	"painted"
