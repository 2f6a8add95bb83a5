/*
 * memory - fills 64 MiB of RAM with a pattern and vouches for it afterwards.
 *
 * At start: "up <nonce>", then it fills 16 MiB..80 MiB from a seed and says "filled <sum>". At each
 * new generation, and on 'c': "sum <sum>", read anew from all of it. On 'd' every 16th
 * page gets a new word and "dirty <sum>" follows. 'q' powers off. Needs 96 MiB of RAM.
 */
	.include "common.inc"

	.set	AREA, 16 << 20
	.set	AREA_END, 80 << 20

user_main:
	mov	MAILBOX_GENERATION, %r12
	tell	up_text
	tell	nonce

	/* xorshift64: no two pages alike, nothing compresses away. */
	movabs	$0x2545f4914f6cdd1d, %rax
	mov	$AREA, %edi
1:	mov	%rax, %rdx
	shl	$13, %rdx
	xor	%rdx, %rax
	mov	%rax, %rdx
	shr	$7, %rdx
	xor	%rdx, %rax
	mov	%rax, %rdx
	shl	$17, %rdx
	xor	%rdx, %rax
	mov	%rax, (%rdi)
	add	$8, %rdi
	cmp	$AREA_END, %rdi
	jb	1b
	lea	filled_text(%rip), %rsi
	jmp	report

idle:
	mov	MAILBOX_GENERATION, %rax
	cmp	%rax, %r12
	mov	%rax, %r12
	lea	sum_text(%rip), %rsi
	jne	report
	inc	%ebx
	test	$0xffff, %ebx
	jnz	idle
	getc
	cmp	$'q', %eax
	je	off
	lea	sum_text(%rip), %rsi
	cmp	$'c', %eax
	je	report
	cmp	$'d', %eax
	jne	idle

	mov	$AREA, %edi
	rdtsc
1:	add	%eax, (%rdi)
	add	$(16 * 4096), %rdi
	cmp	$AREA_END, %rdi
	jb	1b
	lea	dirty_text(%rip), %rsi

/* The text at rsi, the sum of the area, a newline. */
report:
	call	say
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
filled_text:	.asciz	"filled"
sum_text:	.asciz	"sum"
dirty_text:	.asciz	"dirty"
