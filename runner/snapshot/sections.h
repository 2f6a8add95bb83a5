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

/* Values are the file's; never renumber. */
enum section_type {
	SECTION_VCPU = 1,   /* one per vCPU, `index` its number */
	SECTION_VM = 2,	    /* interrupt controllers, PIT, clock */
	SECTION_DEVICE = 3, /* one per device, `id` its id, `version` the device's own */
	SECTION_END = 0xffffffffu,
};

/* The newest payload version of each type this program reads and the one it writes. */
#define SECTION_VCPU_VERSION 1
#define SECTION_VM_VERSION   1

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
 * ENOTSUP: a newer file version, or a section type not known here. EBADMSG: anything else wrong.
 * (Payload versions are checked by whoever loads them.)
 */
int sections_parse(const void *bytes, size_t len, struct sections *out, struct err *err);

/* The section, or NULL. `id` NULL stands for "". */
const struct section *sections_find(const struct sections *s, enum section_type type,
				    uint32_t index, const char *id);

#endif
