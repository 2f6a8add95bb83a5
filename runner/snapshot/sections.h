/*
 * sections.h - the `vcpu` file of a snapshot: every piece of machine state that is not RAM.
 *
 * The file is a header, sections one after the other, and an end section that says how many there
 * were. Each section has a type, a version of its own, and a checksum; doc/snapshot-format.md
 * gives it byte for byte. What a section's payload means is its owner's business (a device's
 * save(), x86/state.h); this module only frames.
 *
 * A snapshot file is input like any other: parsing is bounded, checks everything and refuses with
 * the reason before anything is used. After sections_parse() returned 0 no byte of the file is
 * unaccounted for: each one is either checked against its only legal value or under a checksum.
 *
 * Ownership: a parsed struct sections points into the caller's buffer, which must outlive it.
 */
#ifndef RUNNER_SNAPSHOT_SECTIONS_H
#define RUNNER_SNAPSHOT_SECTIONS_H

#include <stddef.h>
#include <stdint.h>

#include "smfs/base/bytes.h"
#include "smfs/base/err.h"

#define SECTIONS_MAGIC	    "SMVMVCPU"
#define SECTIONS_VERSION    1u
#define SECTIONS_HEADER_LEN 16u
#define SECTION_HEADER_LEN  64u
#define SECTION_ID_LEN	    32u
#define SECTIONS_FILE_MAX   (64u << 20)
#define SECTION_LEN_MAX	    (16u << 20)
#define SECTIONS_MAX	    256u

/*
 * Values are the file's; never renumber. Payloads of the 0x1xx and 0x2xx sections are structs of
 * <linux/kvm.h> (snapshot/state_file.h); a device's is its own.
 */
enum section_type {
	/* One each per vCPU, `index` its number. */
	SECTION_VCPU_MP_STATE = 0x101,
	SECTION_VCPU_REGS = 0x102,
	SECTION_VCPU_SREGS = 0x103,
	SECTION_VCPU_XSAVE = 0x104,
	SECTION_VCPU_XCRS = 0x105,
	SECTION_VCPU_DEBUGREGS = 0x106,
	SECTION_VCPU_LAPIC = 0x107,
	SECTION_VCPU_TSC_KHZ = 0x108,
	SECTION_VCPU_CPUID = 0x109,
	SECTION_VCPU_MSRS = 0x10a,
	SECTION_VCPU_EVENTS = 0x10b,
	/* One of the VM; of SECTION_VM_PIC two, index 0 master, 1 slave. */
	SECTION_VM_PIT2 = 0x201,
	SECTION_VM_CLOCK = 0x202,
	SECTION_VM_PIC = 0x203,
	SECTION_VM_IOAPIC = 0x204,
	/* One per device, `id` its id, `version` the device's own. */
	SECTION_DEVICE = 0x300,
	SECTION_END = 0xffffffffu,
};

/* Version of every section but the devices'. */
#define SECTION_VERSION 1

struct section {
	uint32_t type; /* enum section_type */
	uint16_t version;
	uint32_t index;
	char id[SECTION_ID_LEN]; /* NUL-terminated, "" if it has none */
	const uint8_t *data;
	size_t len;
};

struct sections {
	struct section s[SECTIONS_MAX];
	unsigned n;
};

/*
 * Writing: sections_begin(), then for each section a section_open(), the payload appended to the
 * same writer, and section_close() with what section_open() returned; then sections_end(). A
 * failure (memory, a payload too long, too many sections) is remembered in the writer.
 */
void sections_begin(struct writer *w);
size_t section_open(struct writer *w, enum section_type type, uint16_t version, uint32_t index,
		    const char *id);
void section_close(struct writer *w, size_t at);
void sections_end(struct writer *w);

/*
 * ENOTSUP: a newer file or section version, or a section type not known here. EBADMSG: anything
 * else wrong. (A device's version is checked by the device.)
 */
int sections_parse(const void *bytes, size_t len, struct sections *out, struct err *err);

/* The section, or NULL. `id` NULL stands for "". */
const struct section *sections_find(const struct sections *s, enum section_type type,
				    uint32_t index, const char *id);

#endif
