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
	tell	up_text
	tell	nonce
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
	tell	gen_text
	tell_hex %r12
	jmp	tell
asked:
	tell	now_text
tell:
	mov	counter(%rip), %rax
	call	say_hex
	tell	space
	tell	nonce
	jmp	count

	.data
	.balign	8
counter:	.quad	0
up_text:	.asciz	"up "
gen_text:	.asciz	"gen"
now_text:	.asciz	"now"
space:		.asciz	" "
