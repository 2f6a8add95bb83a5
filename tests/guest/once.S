/* once - says "up", and powers off as soon as it finds itself restored. */
	.include "common.inc"

user_main:
	mov	MAILBOX_GENERATION, %r12
	tell	up_text
wait:
	pause
	mov	MAILBOX_GENERATION, %rax
	cmp	%rax, %r12
	je	wait
	mov	$SYS_OFF, %eax
	ud2

	.data
up_text:	.asciz	"up "
