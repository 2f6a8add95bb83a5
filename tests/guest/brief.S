/* brief - says "up <nonce>" and powers off. */
	.include "common.inc"

user_main:
	lea	up_text(%rip), %rsi
	call	say
	lea	nonce(%rip), %rsi
	call	say
	mov	$SYS_OFF, %eax
	ud2

	.data
up_text:	.asciz	"up "
