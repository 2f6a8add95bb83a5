/*
 * reader1024 - has written 1 GiB; of two machines restored from it, one may write it again.
 *
 * At start it fills 16 MiB..1040 MiB and says "up <nonce>". At a new generation it reads all of it and
 * says "gen <nonce>". On the serial line: 'w' writes a word to every page of it and answers "wrote <nonce>",
 * 'q' powers off. Needs 1056 MiB of RAM.
 */
	.include "common.inc"

	.set	AREA, 16 << 20
	.set	AREA_END, 1040 << 20

user_main:
	mov	MAILBOX_GENERATION, %r12
	movabs	$0x2545f4914f6cdd1d, %rax
	mov	$AREA, %esi
1:	add	%rax, %rbx
	rol	$13, %rbx
	mov	%rbx, (%rsi)
	add	$8, %rsi
	cmp	$AREA_END, %rsi
	jb	1b
	tell	up_text
	tell	nonce

idle:	mov	MAILBOX_GENERATION, %rax
	cmp	%rax, %r12
	jne	read_all
	inc	%ebx
	test	$0xffff, %ebx
	jnz	idle
	getc
	cmp	$'w', %eax
	je	write_all
	cmp	$'q', %eax
	jne	idle
	mov	$SYS_OFF, %eax
	ud2

read_all:
	mov	%rax, %r12
	mov	$AREA, %esi
1:	mov	(%rsi), %rax
	add	$4096, %rsi
	cmp	$AREA_END, %rsi
	jb	1b
	lea	gen_text(%rip), %rsi
	jmp	tell
write_all:
	mov	$AREA, %esi
1:	addq	$1, (%rsi)
	add	$4096, %rsi
	cmp	$AREA_END, %rsi
	jb	1b
	lea	wrote_text(%rip), %rsi
tell:	call	say
	tell	nonce
	jmp	idle

	.data
up_text:	.asciz	"up "
gen_text:	.asciz	"gen "
wrote_text:	.asciz	"wrote "
