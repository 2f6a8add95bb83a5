/*
 * quad - churn on four vCPUs at once: every one rewrites its own 512 KiB for ever, and all draw tickets from one counter.
 *
 * A vCPU's pass p makes its word i the value p * PASS + i * STEP + index, after checking that it holds what pass p - 1
 * made it; where it is, and p, are in its registers (p in an SSE register, too). Every 64 KiB it draws a ticket by an
 * atomic addition and counts it in a register. So an image of memory that is not of one instant, or not of the registers'
 * instant, shows in the words ("torn <index> <address>") or in the tickets: their number is then
 * not the sum of what the four have counted ("apart <tickets> <sum>"). Either powers off.
 *
 * At start, when all have made their first pass: "up <nonce>". At each new generation, once every vCPU has checked a whole
 * pass and told its count: "whole <generation> <tickets> <nonce>". 'q' powers off, in a new
 * generation after that; '?' answers "pass <passes>".
 * Needs four vCPUs and 32 MiB of RAM.
 *
 *   rbx the value of the word at rsi; rbp, xmm1 passes; r8, r9 the area; r10 tickets drawn; r11 index; r12
 *   generation; r13 pass after which to tell
 */
	.set	SMP, 1
	.include "common.inc"

	.set	VCPUS, 4
	.set	AREA, 16 << 20
	.set	AREA_SIZE, 512 << 10
	.set	PML4, 0x9000		/* layout.h: identity, the first 4 GiB */
	.set	TRAMPOLINE, 0x10000
	.set	LAPIC_SVR, 0xfee000f0
	.set	LAPIC_ICR, 0xfee00300

/* ---- ring 0: the others' start ----------------------------------------------------------------------------- */

/* Where a vCPU begins after its start-up interrupt: real mode, cs = TRAMPOLINE / 16. Copied there. */
	.code16
trampoline:
	cli
	mov	%cs, %ax
	mov	%ax, %ds
	lgdtl	trampoline_gdt - trampoline
	mov	$0x20, %eax		/* CR4.PAE */
	mov	%eax, %cr4
	mov	$PML4, %eax
	mov	%eax, %cr3
	mov	$0xc0000080, %ecx	/* EFER.LME */
	rdmsr
	or	$0x100, %eax
	wrmsr
	mov	$0x80000001, %eax	/* CR0.PG, PE */
	mov	%eax, %cr0
	ljmpl	$SEL_CODE0, $start_other
trampoline_gdt:
	.word	SEL_TSS + 16 * VCPUS - 1
	.long	gdt_others
trampoline_end:

	.code64
start_other:
	xor	%eax, %eax
	mov	%eax, %ds
	mov	%eax, %es
	mov	%eax, %ss
	mov	$1, %r11d
	lock xadd %r11, arrived(%rip)
	inc	%r11			/* 1, 2, 3 */
	/* CR0.MP, WP, NE; CR4.OSFXSR, OSXMMEXCPT. */
	mov	%cr0, %rax
	or	$0x10022, %eax
	mov	%rax, %cr0
	mov	%cr4, %rax
	or	$0x600, %eax
	mov	%rax, %cr4
	lidt	idt_pointer(%rip)
	mov	%r11, %rax
	shl	$4, %eax
	add	$SEL_TSS, %eax
	ltr	%ax
	/* 4 KiB of user stack each. */
	mov	%r11, %rax
	shl	$12, %rax
	lea	others_stacks(%rip), %rcx
	add	%rcx, %rax
	lea	boot_stacks(%rip), %rsp
	mov	%r11, %rcx
	shl	$8, %rcx
	add	%rcx, %rsp
	pushq	$SEL_DATA3
	push	%rax
	pushq	$2
	pushq	$SEL_CODE3
	lea	churn(%rip), %rax
	push	%rax
	iretq

/* The first vCPU, ring 0, before it leaves for user_main: descriptors for the others, and the interrupts. */
smp_start:
	/* The common descriptors, then a TSS for each. */
	cld
	lea	gdt(%rip), %rsi
	lea	gdt_others(%rip), %rdi
	mov	$(SEL_TSS / 8), %ecx
	rep movsq
	xor	%edx, %edx
1:	mov	%edx, %eax
	imul	$104, %rax
	lea	others_tss(%rip), %rcx
	add	%rcx, %rax		/* the TSS */
	lea	1(%rdx), %ecx
	shl	$12, %rcx
	lea	ring0_stacks(%rip), %rsi
	add	%rsi, %rcx
	mov	%rcx, 4(%rax)		/* its rsp0 */
	movl	$0x00008900, 4(%rdi)
	movl	$0x67, (%rdi)
	mov	%ax, 2(%rdi)
	shr	$16, %rax
	mov	%al, 4(%rdi)
	mov	%ah, 7(%rdi)
	movq	$0, 8(%rdi)
	add	$16, %rdi
	inc	%edx
	cmp	$VCPUS, %edx
	jb	1b

	lea	trampoline(%rip), %rsi
	mov	$TRAMPOLINE, %edi
	mov	$(trampoline_end - trampoline), %ecx
	rep movsb

	mov	$LAPIC_SVR, %edx
	movl	$0x1ff, (%rdx)		/* enabled */
	mov	$LAPIC_ICR, %edx
	movl	$0x000c4500, (%rdx)	/* INIT to all but this one */
	mov	$(0x000c4600 | TRAMPOLINE >> 12), %eax
	mov	%eax, (%rdx)		/* start-up */
	mov	%eax, (%rdx)
2:	pause
	cmpq	$(VCPUS - 1), arrived(%rip)
	jb	2b
	ret

/* ---- ring 3 -------------------------------------------------------------------------------------------------- */

user_main:
	xor	%r11d, %r11d
churn:
	mov	MAILBOX_GENERATION, %r12
	movabs	$0x9e3779b97f4a7c15, %r14	/* PASS */
	movabs	$0xd1b54a32d192ed03, %r15	/* STEP */
	mov	$-1, %r13
	xor	%ebp, %ebp
	xor	%r10d, %r10d
	movq	%rbp, %xmm1
	mov	%r11, %r8
	imul	$AREA_SIZE, %r8
	add	$AREA, %r8
	lea	AREA_SIZE(%r8), %r9
	/* Pass 0 fills. */
	mov	%r11, %rbx
	mov	%r8, %rsi
1:	mov	%rbx, (%rsi)
	add	%r15, %rbx
	add	$8, %rsi
	cmp	%r9, %rsi
	jb	1b
	lock incq filled(%rip)
	test	%r11, %r11
	jnz	pass
1:	pause
	cmpq	$VCPUS, filled(%rip)
	jb	1b
	tell	up_text
	tell	nonce

pass:
	movq	%xmm1, %rax
	cmp	%rbp, %rax
	jne	torn
	mov	%rbp, %rbx
	imul	%r14, %rbx
	add	%r11, %rbx
	mov	%r8, %rsi
word:
	cmp	%rbx, (%rsi)
	jne	torn
	lea	(%rbx, %r14), %rax
	mov	%rax, (%rsi)
	add	%r15, %rbx
	add	$8, %rsi
	test	$0xffff, %esi
	jnz	word
	lock incq tickets(%rip)
	inc	%r10
	mov	MAILBOX_GENERATION, %rax
	cmp	%rax, %r12
	jne	restored
more:
	cmp	%r9, %rsi
	jb	word
	inc	%rbp
	movq	%rbp, %xmm1
	cmp	%r13, %rbp
	je	tell
listen:
	test	%r11, %r11
	jnz	pass
	getc
	cmp	$'q', %eax
	je	quit
	cmp	$'?', %eax
	jne	pass
	tell	pass_text
	mov	%rbp, %rax
	call	say_number
	jmp	pass

/* In a new generation: when "whole" has been said. It may be so new that nobody has looked yet. */
quit:
	cmp	MAILBOX_GENERATION, %r12
	jne	1f
	cmp	$-1, %r13
	je	off
	cmp	%r13, %rbp
	jae	off
1:	movb	$1, quitting(%rip)
	jmp	pass

restored:
	mov	%rax, %r12
	lea	2(%rbp), %r13		/* the end of the pass after this one */
	jmp	more

/* Everybody stops drawing, tells its count, and waits until the first vCPU has added up. */
tell:
	lea	counts(%rip), %rcx
	mov	%r10, (%rcx, %r11, 8)
	lea	told(%rip), %rcx
	mov	%r12, (%rcx, %r11, 8)
	test	%r11, %r11
	jz	add_up
1:	pause
	cmp	%r12, added_up(%rip)
	je	listen
	/* Restored in the midst of it: the others may never come. */
	mov	MAILBOX_GENERATION, %rax
	cmp	%rax, %r12
	je	1b
again_restored:
	mov	%rax, %r12
	lea	2(%rbp), %r13
	jmp	listen

add_up:
	xor	%edx, %edx
	xor	%ebx, %ebx
1:	pause
	mov	MAILBOX_GENERATION, %rax
	cmp	%rax, %r12
	jne	again_restored
	lea	told(%rip), %rcx
	cmp	%r12, (%rcx, %rdx, 8)
	jne	1b
	lea	counts(%rip), %rcx
	add	(%rcx, %rdx, 8), %rbx
	inc	%edx
	cmp	$VCPUS, %edx
	jb	1b
	cmp	tickets(%rip), %rbx
	jne	apart
	tell	whole_text
	tell_hex %r12
	tell_hex %rbx
	tell	space
	tell	nonce
	mov	%r12, added_up(%rip)
	cmpb	$0, quitting(%rip)
	jne	off
	jmp	listen

/* One speaks: two at once would spell no word. */
silent:
	pause
	jmp	silent

apart:
	mov	$1, %al
	xchg	%al, speaking(%rip)
	test	%al, %al
	jnz	silent
	tell	apart_text
	mov	tickets(%rip), %rax
	call	say_hex
	mov	%rbx, %rax
	jmp	last_words
torn:
	mov	$1, %al
	xchg	%al, speaking(%rip)
	test	%al, %al
	jnz	silent
	push	%rsi
	tell	torn_text
	tell_hex %r11
	pop	%rax
last_words:
	call	say_number
off:
	mov	$SYS_OFF, %eax
	ud2

say_number:
	call	say_hex
	lea	newline(%rip), %rsi
	jmp	say

	.data
up_text:	.asciz	"up "
pass_text:	.asciz	"pass"
whole_text:	.asciz	"whole"
apart_text:	.asciz	"apart"
torn_text:	.asciz	"torn"
space:		.asciz	" "
	.balign	64
arrived:	.quad	0
filled:		.quad	0
	.balign	64
tickets:	.quad	0
	.balign	64
counts:		.fill	VCPUS, 8, 0
told:		.fill	VCPUS, 8, 0
added_up:	.quad	0
quitting:	.byte	0
speaking:	.byte	0

	.bss
	.balign	4096
	.skip	256
boot_stacks:
	.skip	256 * VCPUS
	.balign	16
gdt_others:
	.skip	SEL_TSS + 16 * VCPUS
	.balign	16
others_tss:
	.skip	104 * VCPUS
	.balign	4096
ring0_stacks:
	.skip	4096 * VCPUS
others_stacks:
	.skip	4096 * (VCPUS + 1)
