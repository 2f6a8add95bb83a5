/* Kernel files, honest and hostile: what is read from their headers, and what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <elf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "runner/vm/memory.h"
#include "runner/x86/boot.h"
#include "runner/x86/layout.h"
#include "smfs/base/num.h"

#define RAM (256 * MIB)

/* ---- bzImage ---- */

static void put16(uint8_t *p, uint16_t v)
{
	memcpy(p, &v, sizeof(v));
}

static void put32(uint8_t *p, uint32_t v)
{
	memcpy(p, &v, sizeof(v));
}

static void put64(uint8_t *p, uint64_t v)
{
	memcpy(p, &v, sizeof(v));
}

/* Offsets: Linux, Documentation/arch/x86/boot.rst. */
static void make_bzimage(uint8_t head[KERNEL_HEAD])
{
	memset(head, 0, KERNEL_HEAD);
	head[0x1f1] = 7;	     /* setup_sects */
	put16(head + 0x1fe, 0xaa55); /* boot_flag */
	head[0x200] = 0xeb;	     /* jump over the header, whose end it tells */
	head[0x201] = 0x6a;
	memcpy(head + 0x202, "HdrS", 4);
	put16(head + 0x206, 0x20f);	 /* version */
	head[0x211] = 1;		 /* loadflags: LOADED_HIGH */
	put32(head + 0x22c, 0x7fffffff); /* initrd_addr_max */
	put16(head + 0x236, 1);		 /* xloadflags: XLF_KERNEL_64 */
	put32(head + 0x238, 2047);	 /* cmdline_size */
	put64(head + 0x258, 0x1000000);	 /* pref_address */
	put32(head + 0x260, 40 * MIB);	 /* init_size */
}

static int plan(const uint8_t *head, uint64_t file_size, uint64_t ram, struct kernel_plan *k)
{
	struct err err = ERR_INIT;
	int r = kernel_plan(head, MIN(file_size, (uint64_t)KERNEL_HEAD), file_size, ram, k, &err);

	if (r < 0)
		assert_int_equal(err.code, -r);
	return r;
}

static void a_bzimage_is_entered_at_its_64_bit_entry(void **state)
{
	uint8_t head[KERNEL_HEAD];
	struct kernel_plan k;

	make_bzimage(head);
	assert_int_equal(plan(head, 8 * MIB, RAM, &k), 0);
	assert_int_equal(k.kind, KERNEL_BZIMAGE);
	assert_int_equal(k.entry, 0x1000200);
	assert_int_equal(k.nsegments, 1);
	assert_int_equal(k.segment[0].gpa, 0x1000000);
	assert_int_equal(k.segment[0].file_off, 8 * 512);
	assert_int_equal(k.segment[0].file_len, 8 * MIB - 8 * 512);
	assert_int_equal(k.end, 0x1000000 + 40 * MIB);
	assert_int_equal(k.initrd_max, 0x7fffffff);
	assert_int_equal(k.cmdline_max, 2047);
	assert_int_equal(k.header_len, 0x202 + 0x6a - 0x1f1);
}

static void no_setup_sectors_means_four(void **state)
{
	uint8_t head[KERNEL_HEAD];
	struct kernel_plan k;

	make_bzimage(head);
	head[0x1f1] = 0;
	assert_int_equal(plan(head, 8 * MIB, RAM, &k), 0);
	assert_int_equal(k.segment[0].file_off, 5 * 512);
}

static void kernels_we_cannot_enter_are_refused(void **state)
{
	uint8_t head[KERNEL_HEAD];
	struct kernel_plan k;

	make_bzimage(head);
	put16(head + 0x206, 0x20b); /* too old */
	assert_int_equal(plan(head, 8 * MIB, RAM, &k), -ENOTSUP);
	make_bzimage(head);
	put16(head + 0x236, 0); /* 32 bits only */
	assert_int_equal(plan(head, 8 * MIB, RAM, &k), -ENOTSUP);
	make_bzimage(head);
	head[0x211] = 0; /* zImage */
	assert_int_equal(plan(head, 8 * MIB, RAM, &k), -ENOTSUP);
	make_bzimage(head);
	head[0x202] = 'h';
	assert_int_equal(plan(head, 8 * MIB, RAM, &k), -ENOTSUP);
	make_bzimage(head);
	head[0x1fe] = 0;
	assert_int_equal(plan(head, 8 * MIB, RAM, &k), -ENOTSUP);
}

static void a_short_bzimage_is_refused(void **state)
{
	uint8_t head[KERNEL_HEAD];
	struct kernel_plan k;

	make_bzimage(head);
	for (uint64_t size = 0; size <= 8 * 512 + 0x200; size += 8)
		assert_true(plan(head, size, RAM, &k) < 0);
	head[0x1f1] = 0xff;
	assert_int_equal(plan(head, 256 * 512, RAM, &k), -EBADMSG);
}

static void a_kernel_that_does_not_fit_is_refused(void **state)
{
	uint8_t head[KERNEL_HEAD];
	struct kernel_plan k;

	make_bzimage(head);
	assert_int_equal(plan(head, 8 * MIB, 56 * MIB, &k), 0);
	assert_int_equal(plan(head, 8 * MIB, 56 * MIB - 4096, &k), -EINVAL);
	/* It may say it needs less than it has. */
	put32(head + 0x260, 0);
	assert_int_equal(plan(head, 8 * MIB, 56 * MIB, &k), 0);
	assert_int_equal(plan(head, 100 * MIB, 56 * MIB, &k), -EINVAL);
}

static void wild_load_addresses_are_refused(void **state)
{
	static const uint64_t bad[] = {0,	   LAYOUT_ZERO_PAGE, LAYOUT_HIGH_RAM - 1,
				       1ull << 63, UINT64_MAX,	     UINT64_MAX - 40 * MIB + 1};
	uint8_t head[KERNEL_HEAD];
	struct kernel_plan k;

	make_bzimage(head);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		put64(head + 0x258, bad[i]);
		assert_true(plan(head, 8 * MIB, RAM, &k) < 0);
	}
}

static void a_header_longer_than_known_is_cut(void **state)
{
	uint8_t head[KERNEL_HEAD];
	struct kernel_plan k;

	make_bzimage(head);
	head[0x201] = 0xff;
	assert_int_equal(plan(head, 8 * MIB, RAM, &k), 0);
	/* It ends where the next field of struct boot_params begins. */
	assert_true(k.header_len <= 0x290 - 0x1f1);
}

/* ---- ELF ---- */

struct elf {
	Elf64_Ehdr h;
	Elf64_Phdr p[3];
	uint8_t rest[KERNEL_HEAD - sizeof(Elf64_Ehdr) - 3 * sizeof(Elf64_Phdr)];
};

static void make_elf(struct elf *e)
{
	memset(e, 0, sizeof(*e));
	memcpy(e->h.e_ident, ELFMAG, SELFMAG);
	e->h.e_ident[EI_CLASS] = ELFCLASS64;
	e->h.e_ident[EI_DATA] = ELFDATA2LSB;
	e->h.e_type = ET_EXEC;
	e->h.e_machine = EM_X86_64;
	e->h.e_entry = 0x100010;
	e->h.e_phoff = offsetof(struct elf, p);
	e->h.e_phentsize = sizeof(Elf64_Phdr);
	e->h.e_phnum = 3;
	e->p[0] = (Elf64_Phdr){.p_type = PT_LOAD,
			       .p_offset = 4096,
			       .p_paddr = 0x100000,
			       .p_filesz = 4096,
			       .p_memsz = 8192};
	e->p[1] = (Elf64_Phdr){.p_type = PT_NOTE, .p_offset = UINT64_MAX};
	e->p[2] = (Elf64_Phdr){.p_type = PT_LOAD,
			       .p_offset = 8192,
			       .p_paddr = 0x200000,
			       .p_filesz = 0,
			       .p_memsz = 4096};
}

static int plan_elf(const struct elf *e, struct kernel_plan *k)
{
	return plan((const uint8_t *)e, 8192, RAM, k);
}

static void an_elf_is_loaded_segment_by_segment(void **state)
{
	struct kernel_plan k;
	struct elf e;

	make_elf(&e);
	assert_int_equal(plan_elf(&e, &k), 0);
	assert_int_equal(k.kind, KERNEL_ELF64);
	assert_int_equal(k.entry, 0x100010);
	assert_int_equal(k.nsegments, 2);
	assert_int_equal(k.segment[0].file_off, 4096);
	assert_int_equal(k.segment[0].mem_len, 8192);
	assert_int_equal(k.end, 0x201000);
}

static void foreign_elf_files_are_refused(void **state)
{
	struct kernel_plan k;
	struct elf e;

	make_elf(&e);
	e.h.e_ident[EI_CLASS] = ELFCLASS32;
	assert_int_equal(plan_elf(&e, &k), -ENOTSUP);
	make_elf(&e);
	e.h.e_machine = EM_AARCH64;
	assert_int_equal(plan_elf(&e, &k), -ENOTSUP);
	make_elf(&e);
	e.h.e_type = ET_DYN;
	assert_int_equal(plan_elf(&e, &k), -ENOTSUP);
}

static void wild_elf_headers_are_refused(void **state)
{
	struct kernel_plan k;
	struct elf e;

	make_elf(&e);
	e.h.e_phoff = UINT64_MAX - 8;
	assert_int_equal(plan_elf(&e, &k), -EBADMSG);
	make_elf(&e);
	e.h.e_phoff = 8192 - 100;
	assert_int_equal(plan_elf(&e, &k), -EBADMSG);
	make_elf(&e);
	e.h.e_phnum = 0xffff;
	assert_int_equal(plan_elf(&e, &k), -EBADMSG);
	make_elf(&e);
	e.h.e_phentsize = 8;
	assert_int_equal(plan_elf(&e, &k), -EBADMSG);
	make_elf(&e);
	e.h.e_phnum = 0; /* so that the entry is nowhere */
	assert_int_equal(plan_elf(&e, &k), -EBADMSG);
	make_elf(&e);
	e.h.e_entry = 0x102000;
	assert_int_equal(plan_elf(&e, &k), -EBADMSG);
}

static void wild_elf_segments_are_refused(void **state)
{
	struct kernel_plan k;
	struct elf e;

	make_elf(&e);
	e.p[0].p_filesz = 4097; /* past the end of the file */
	assert_int_equal(plan_elf(&e, &k), -EBADMSG);
	make_elf(&e);
	e.p[0].p_offset = UINT64_MAX;
	assert_int_equal(plan_elf(&e, &k), -EBADMSG);
	make_elf(&e);
	e.p[0].p_memsz = 100; /* less than what is in the file */
	assert_int_equal(plan_elf(&e, &k), -EBADMSG);
	make_elf(&e);
	e.p[0].p_paddr = 0x7000; /* over what we put there ourselves */
	assert_int_equal(plan_elf(&e, &k), -EBADMSG);
	make_elf(&e);
	e.p[0].p_paddr = UINT64_MAX - 100;
	assert_int_equal(plan_elf(&e, &k), -EBADMSG);
	make_elf(&e);
	e.p[2].p_memsz = RAM;
	assert_int_equal(plan_elf(&e, &k), -EINVAL);
}

static void too_many_segments_are_refused(void **state)
{
	struct elf e;
	struct kernel_plan k;
	Elf64_Phdr *p = (Elf64_Phdr *)((uint8_t *)&e + offsetof(struct elf, p));

	make_elf(&e);
	e.h.e_phnum = KERNEL_MAX_SEGMENTS + 1;
	for (int i = 1; i <= KERNEL_MAX_SEGMENTS; i++)
		memcpy((uint8_t *)p + i * sizeof(*p), (uint8_t *)p, sizeof(*p));
	assert_int_equal(plan_elf(&e, &k), -EBADMSG);
	e.h.e_phnum = KERNEL_MAX_SEGMENTS;
	assert_int_equal(plan_elf(&e, &k), 0);
}

/* Any byte of either header changed: a plan within RAM and file, or a refusal. Never more. */
static void damaged_headers_never_lead_outside(void **state)
{
	union {
		uint8_t b[KERNEL_HEAD];
		struct elf e;
	} u;
	struct kernel_plan k;

	for (int kind = 0; kind < 2; kind++) {
		for (size_t at = 0;
		     at < (kind ? sizeof(Elf64_Ehdr) + 3 * sizeof(Elf64_Phdr) : 0x290); at++) {
			for (int v = 0; v < 256; v += 5) {
				if (kind)
					make_elf(&u.e);
				else
					make_bzimage(u.b);
				u.b[at] ^= v;
				if (plan(u.b, 8192, RAM, &k) < 0)
					continue;
				for (unsigned i = 0; i < k.nsegments; i++) {
					assert_true(k.segment[i].gpa >= LAYOUT_HIGH_RAM);
					assert_true(range_ok(k.segment[i].gpa, k.segment[i].mem_len,
							     RAM));
					assert_true(k.segment[i].file_len <= k.segment[i].mem_len);
					assert_true(range_ok(k.segment[i].file_off,
							     k.segment[i].file_len, 8192));
				}
			}
		}
	}
}

/* ---- memory map ---- */

static void the_memory_map_reserves_our_pages(void **state)
{
	struct e820_range map[E820_MAX];
	struct memory m;

	assert_int_equal(memory_layout(&m, 5 * GIB, NULL), 0);
	unsigned n = boot_e820(&m, map);
	assert_int_equal(n, 5);
	for (unsigned i = 1; i < n; i++)
		assert_true(map[i - 1].start + map[i - 1].size <= map[i].start);
	assert_int_equal(map[1].start, LAYOUT_MAILBOX);
	assert_int_equal(map[1].start + map[1].size, LAYOUT_VMGENID + 4096);
	assert_int_equal(map[1].type, E820_RESERVED);
	assert_int_equal(map[2].type, E820_RESERVED);
	assert_int_equal(map[3].start + map[3].size, MEMORY_HOLE_START);
	assert_int_equal(map[4].start, MEMORY_HOLE_END);
	assert_int_equal(map[4].size, 2 * GIB);
	assert_int_equal(map[4].type, E820_RAM);
}

static void a_small_guest_has_one_range_above_1_mib(void **state)
{
	struct e820_range map[E820_MAX];
	struct memory m;

	assert_int_equal(memory_layout(&m, MEMORY_RAM_MIN, NULL), 0);
	assert_int_equal(boot_e820(&m, map), 4);
	assert_int_equal(map[3].start, LAYOUT_HIGH_RAM);
	assert_int_equal(map[3].size, MEMORY_RAM_MIN - LAYOUT_HIGH_RAM);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_bzimage_is_entered_at_its_64_bit_entry),
		cmocka_unit_test(no_setup_sectors_means_four),
		cmocka_unit_test(kernels_we_cannot_enter_are_refused),
		cmocka_unit_test(a_short_bzimage_is_refused),
		cmocka_unit_test(a_kernel_that_does_not_fit_is_refused),
		cmocka_unit_test(wild_load_addresses_are_refused),
		cmocka_unit_test(a_header_longer_than_known_is_cut),
		cmocka_unit_test(an_elf_is_loaded_segment_by_segment),
		cmocka_unit_test(foreign_elf_files_are_refused),
		cmocka_unit_test(wild_elf_headers_are_refused),
		cmocka_unit_test(wild_elf_segments_are_refused),
		cmocka_unit_test(too_many_segments_are_refused),
		cmocka_unit_test(damaged_headers_never_lead_outside),
		cmocka_unit_test(the_memory_map_reserves_our_pages),
		cmocka_unit_test(a_small_guest_has_one_range_above_1_mib),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
