/* What a kernel file asks for: its headers, checked. Nothing here touches the guest. */
#include "runner/x86/boot.h"

#include "runner/x86/layout.h"
#include "smfs/base/num.h"

#include <asm/bootparam.h>
#include <elf.h>
#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <string.h>

/* Linux boot protocol: Documentation/arch/x86/boot.rst. */
#define SETUP_AT       0x1f1
#define SETUP_MAGIC    0x53726448 /* "HdrS" */
#define SETUP_JUMP_LEN 0x201	  /* the header ends that many bytes after 0x202 */
#define BOOT_FLAG      0xaa55
#define VERSION_MIN    0x020c /* xloadflags */
#define ENTRY_64       0x200
#define SECTOR	       512
#define INITRD_MAX_OLD 0x37ffffff /* what protocol 2.02 meant when it said nothing */

static int need_ram(uint64_t end, uint64_t low_ram, struct err *err)
{
	char need[SIZE_STR_MAX], have[SIZE_STR_MAX];

	return err_set(err, EINVAL,
		       "kernel needs memory up to %s and the guest has %s; give it more",
		       format_size(end, need), format_size(low_ram, have));
}

static int plan_bzimage(const uint8_t *head, size_t len, uint64_t file_size, uint64_t low_ram,
			struct kernel_plan *out, struct err *err)
{
	struct setup_header h = {0};
	uint64_t setup, body, need, end;

	/* A shorter header than we know is zero-extended: it has none of the newer fields. */
	size_t hlen = SETUP_JUMP_LEN + 1 + head[SETUP_JUMP_LEN] - SETUP_AT;
	hlen = MIN(hlen, sizeof(h));
	if (len < SETUP_AT + hlen)
		return err_set(err, EBADMSG, "kernel is cut off in its setup header");
	memcpy(&h, head + SETUP_AT, hlen);
	if (h.version < VERSION_MIN || !(h.xloadflags & XLF_KERNEL_64) ||
	    !(h.loadflags & LOADED_HIGH))
		return err_set(
			err, ENOTSUP,
			"kernel speaks boot protocol %u.%02u and has %s 64-bit entry; one of "
			"2.12 or newer with it is needed",
			h.version >> 8, h.version & 0xff,
			h.xloadflags & XLF_KERNEL_64 ? "a" : "no");
	setup = ((uint64_t)(h.setup_sects ? h.setup_sects : 4) + 1) * SECTOR;
	if (setup >= file_size || file_size - setup <= ENTRY_64)
		return err_set(err, EBADMSG,
			       "kernel of %" PRIu64 " bytes is cut off: %" PRIu64
			       " of them are setup code",
			       file_size, setup);
	body = file_size - setup;
	need = MAX((uint64_t)h.init_size, body);
	if (h.pref_address < LAYOUT_HIGH_RAM || add_overflow_u64(h.pref_address, need, &end))
		return err_set(err, EBADMSG,
			       "kernel wants to be loaded at %#" PRIx64
			       ", below 1 MiB or beyond all addresses",
			       (uint64_t)h.pref_address);
	if (end > low_ram)
		return need_ram(end, low_ram, err);
	*out = (struct kernel_plan){
		.kind = KERNEL_BZIMAGE,
		.entry = h.pref_address + ENTRY_64,
		.end = end,
		.nsegments = 1,
		.segment = {{h.pref_address, setup, body, need}},
		.initrd_max = h.initrd_addr_max ? h.initrd_addr_max : INITRD_MAX_OLD,
		.cmdline_max = h.cmdline_size,
		.header_len = hlen,
	};
	return 0;
}

static int plan_segment(const Elf64_Phdr *p, uint64_t file_size, uint64_t low_ram,
			struct kernel_plan *out, struct err *err)
{
	uint64_t end;

	if (out->nsegments == KERNEL_MAX_SEGMENTS)
		return err_set(err, EBADMSG, "kernel has more than %d segments to load",
			       KERNEL_MAX_SEGMENTS);
	if (p->p_filesz > p->p_memsz || !range_ok(p->p_offset, p->p_filesz, file_size))
		return err_set(err, EBADMSG, "kernel segment at %#" PRIx64 " lies outside the file",
			       (uint64_t)p->p_paddr);
	if (p->p_paddr < LAYOUT_HIGH_RAM || add_overflow_u64(p->p_paddr, p->p_memsz, &end))
		return err_set(err, EBADMSG,
			       "kernel segment at %#" PRIx64
			       ": below 1 MiB or beyond all addresses",
			       (uint64_t)p->p_paddr);
	if (end > low_ram)
		return need_ram(end, low_ram, err);
	out->segment[out->nsegments].gpa = p->p_paddr;
	out->segment[out->nsegments].file_off = p->p_offset;
	out->segment[out->nsegments].file_len = p->p_filesz;
	out->segment[out->nsegments].mem_len = p->p_memsz;
	out->nsegments++;
	out->end = MAX(out->end, end);
	return 0;
}

static bool entry_in_segment(const struct kernel_plan *k)
{
	for (unsigned i = 0; i < k->nsegments; i++)
		if (k->entry >= k->segment[i].gpa &&
		    k->entry - k->segment[i].gpa < k->segment[i].mem_len)
			return true;
	return false;
}

static int plan_elf(const uint8_t *head, size_t len, uint64_t file_size, uint64_t low_ram,
		    struct kernel_plan *out, struct err *err)
{
	Elf64_Ehdr h;

	memcpy(&h, head, sizeof(h));
	if (h.e_ident[EI_CLASS] != ELFCLASS64 || h.e_ident[EI_DATA] != ELFDATA2LSB ||
	    h.e_machine != EM_X86_64 || h.e_type != ET_EXEC)
		return err_set(err, ENOTSUP, "kernel is not an x86-64 ELF executable");
	if (h.e_phentsize != sizeof(Elf64_Phdr) ||
	    !range_ok(h.e_phoff, (uint64_t)h.e_phnum * sizeof(Elf64_Phdr), len))
		return err_set(err, EBADMSG,
			       "kernel's program headers (%u at %" PRIu64
			       ") are not within its first %d bytes",
			       h.e_phnum, (uint64_t)h.e_phoff, KERNEL_HEAD);
	*out = (struct kernel_plan){.kind = KERNEL_ELF64,
				    .entry = h.e_entry,
				    .initrd_max = UINT32_MAX,
				    .cmdline_max = LAYOUT_CMDLINE_MAX - 1};
	for (unsigned i = 0; i < h.e_phnum; i++) {
		Elf64_Phdr p;

		memcpy(&p, head + h.e_phoff + i * sizeof(p), sizeof(p));
		if (p.p_type != PT_LOAD || !p.p_memsz)
			continue;
		int r = plan_segment(&p, file_size, low_ram, out, err);
		if (r < 0)
			return r;
	}
	if (!entry_in_segment(out))
		return err_set(err, EBADMSG,
			       "kernel's entry point %#" PRIx64 " is in none of its segments",
			       out->entry);
	return 0;
}

int kernel_plan(const uint8_t *head, size_t len, uint64_t file_size, uint64_t low_ram,
		struct kernel_plan *out, struct err *err)
{
	uint16_t flag;
	uint32_t magic;

	if (len >= sizeof(Elf64_Ehdr) && !memcmp(head, ELFMAG, SELFMAG))
		return plan_elf(head, len, file_size, low_ram, out, err);
	if (len < 0x206)
		return err_set(err, ENOTSUP, "kernel is neither a bzImage nor an ELF program");
	memcpy(&flag, head + 0x1fe, sizeof(flag));
	memcpy(&magic, head + 0x202, sizeof(magic));
	if (flag != BOOT_FLAG || magic != SETUP_MAGIC)
		return err_set(err, ENOTSUP, "kernel is neither a bzImage nor an ELF program");
	return plan_bzimage(head, len, file_size, low_ram, out, err);
}
