/*
 * counter - counts in RAM for ever and says where it is when asked, or when it finds itself
 * restored.
 *
 * At start: "up <nonce>". At each new generation number in the mailbox page, at once:
 * "gen <number> <counter> <nonce>". On the serial line: '?' answers "now <counter> <nonce>", 'q' powers off.
 * Two machines restored from one snapshot so share the nonce and count on their own.
 */
	.include "common.inc"

user_main:
	mov	MAILBOX_GENERATION, %r12
	lea	up_text(%rip), %rsi
	call	say
	lea	nonce(%rip), %rsi
	call	say
	xor	%ebx, %ebx

count:
	incq	counter(%rip)
	mov	MAILBOX_GENERATION, %rax
	cmp	%rax, %r12
	jne	restored
	inc	%ebx
	test	$0xffff, %ebx
	jnz	count
	getc
	cmp	$'?', %eax
	je	asked
	cmp	$'q', %eax
	jne	count
	mov	$SYS_OFF, %eax
	ud2

restored:
	mov	%rax, %r12
	lea	gen_text(%rip), %rsi
	call	say
	mov	%r12, %rax
	call	say_hex
	jmp	tell
asked:
	lea	now_text(%rip), %rsi
	call	say
tell:
	mov	counter(%rip), %rax
	call	say_hex
	lea	space(%rip), %rsi
	call	say
	lea	nonce(%rip), %rsi
	call	say
	jmp	count

	.data
	.balign	8
counter:	.quad	0
up_text:	.asciz	"up "
gen_text:	.asciz	"gen"
now_text:	.asciz	"now"
space:		.asciz	" "
