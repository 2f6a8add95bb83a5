/*
 * boot.h - put a kernel into a new VM's RAM and point vCPU 0 at it.
 *
 * Two kinds of kernel: a Linux bzImage entered at its 64-bit entry point (boot protocol >= 2.12
 * with XLF_KERNEL_64), and an ELF64 program (the tiny guests of tests/guest), entered at e_entry.
 * Both start in long mode, interrupts off, paging on with the first 4 GiB identity-mapped in
 * 2 MiB user-accessible pages, rsi = boot_params, rsp = LAYOUT_STACK_TOP, flat segments
 * (cs 0x10, ds/es/ss 0x18; ring 3: data 0x23, code 0x2b).
 *
 * Kernel and initramfs are files from outside: every size and offset in their headers is checked
 * against the file and against RAM before use (EBADMSG). Kernel and initramfs are read straight
 * into guest RAM.
 *
 * Call once, after all devices were added (their AML goes into the DSDT), before vm_start().
 */
#ifndef RUNNER_X86_BOOT_H
#define RUNNER_X86_BOOT_H

#include <stddef.h>
#include <stdint.h>

#include "smfs/base/err.h"

struct vm;
struct memory;

struct boot_config {
	const char *kernel;  /* path */
	const char *initrd;  /* path, NULL = none */
	const char *cmdline; /* NULL = "" */
};

int boot_load(struct vm *vm, const struct boot_config *cfg, struct err *err);

/* ---- the parts, for tests ---- */

struct e820_range {
	uint64_t start, size;
	uint32_t type;
};
#define E820_RAM      1
#define E820_RESERVED 2
#define E820_MAX      8

/* The memory map a guest is told; returns the number of entries (at most E820_MAX). */
unsigned boot_e820(const struct memory *m, struct e820_range out[E820_MAX]);

enum kernel_kind { KERNEL_BZIMAGE, KERNEL_ELF64 };

#define KERNEL_MAX_SEGMENTS 16

/* What the headers say, checked against the file's length and against RAM below the hole. */
struct kernel_plan {
	enum kernel_kind kind;
	uint64_t entry;
	uint64_t end; /* first address after everything the kernel needs to start */
	unsigned nsegments;
	struct {
		uint64_t gpa, file_off, file_len, mem_len;
	} segment[KERNEL_MAX_SEGMENTS];
	/* bzImage */
	uint32_t initrd_max; /* highest address an initramfs byte may have */
	uint32_t cmdline_max;
	uint32_t header_len; /* bytes of setup header to carry over from file offset 0x1f1 */
};

/*
 * `head` is the first `len` bytes of a kernel of `file_size` bytes (KERNEL_HEAD of them, or
 * all); `low_ram` is the end of RAM below the hole.
 */
#define KERNEL_HEAD 8192
int kernel_plan(const uint8_t *head, size_t len, uint64_t file_size, uint64_t low_ram,
		struct kernel_plan *out, struct err *err);

#endif
