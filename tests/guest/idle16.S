/*
 * idle16 - has written 16 MiB, and does nothing.
 *
 * At start it writes 16 MiB..32 MiB, says "up <nonce>" and looks at the mailbox page now and then; with
 * BUSY, all the time. At a new generation it says "gen", first thing, and " <nonce>", and halts for ever:
 * what such a machine costs, and how long it took to live, is then all the monitor's. Needs 48 MiB of RAM.
 */
	.include "common.inc"

	.set	AREA, 16 << 20
	.set	AREA_END, 32 << 20

user_main:
	mov	MAILBOX_GENERATION, %r12
	mov	$AREA, %esi
1:	mov	%rsi, (%rsi)
	add	$8, %rsi
	cmp	$AREA_END, %rsi
	jb	1b
	tell	up_text
	tell	nonce
2:
	.ifndef	BUSY
	mov	$SYS_NAP, %eax
	ud2
	.endif
	cmp	MAILBOX_GENERATION, %r12
	je	2b
	tell	gen_text
	tell	nonce
	mov	$SYS_HALT, %eax
	ud2

	.data
up_text:	.asciz	"up "
gen_text:	.asciz	"gen "
