/*
 * meta.h - the `meta` file of a snapshot: what it is, in JSON a person can read.
 *
 * The file's last member is `checksum`: XXH3-64 over the file's own bytes with the checksum's
 * sixteen digits taken as '0'. So any changed byte, white space included, is found and refused;
 * it guards against damage, not against a forger, and parsing therefore trusts nothing: sizes,
 * counts and names are bounded, regions must tile `ram`, members must have their type.
 *
 * Members a reader does not know are ignored, unless their feature is listed in `required`:
 * a newer writer names there what an older reader must not ignore. doc/snapshot-format.md has the
 * whole list.
 *
 * A struct snapshot_meta owns no memory.
 */
#ifndef RUNNER_SNAPSHOT_META_H
#define RUNNER_SNAPSHOT_META_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runner/snapshot/hostcpu.h"
#include "runner/vm/memory.h"
#include "smfs/base/err.h"

#define META_FORMAT	 1
#define META_FILE_MAX	 (256u << 10)
#define META_PATH_MAX	 4095
#define META_SOURCE_MAX	 1023
#define META_REF_MAX	 400
#define META_DEVICES_MAX 32
#define META_VCPUS_MAX	 255

struct meta_region {
	uint64_t gpa, size; /* page aligned */
	uint64_t offset;    /* in `ram` */
	uint64_t used;	    /* the rest of the region is zeros; a hint for speed */
};

/* A device, in order of creation: enough to make the same machine again and to check it is the
 * same. */
struct meta_device {
	char id[32];
	char type[32];	  /* device_ops.type */
	uint16_t version; /* of its saved state */
	uint64_t base, size;
	int gsi;			  /* -1: none */
	char source[META_SOURCE_MAX + 1]; /* host file behind it, "" if none */
	bool readonly;
	/* Of a writable disk: length of the file beside `meta` with its content, called as `id`. */
	uint64_t content;
};

struct snapshot_meta {
	int64_t wall_clock_ns; /* CLOCK_REALTIME when the vCPUs stopped */
	struct snapshot_cpu cpu;

	uint64_t ram_bytes; /* length of `ram` */
	struct meta_region region[MEMORY_MAX_REGIONS];
	unsigned nregions;
	unsigned vcpus;
	uint32_t tsc_khz;

	struct {
		char path[META_PATH_MAX + 1]; /* "" if unknown */
		char sha256[65];	      /* "" if unknown */
	} kernel;

	bool has_ws; /* there is a working set beside it: an import waits for it */
	bool has_image;
	struct {
		char ref[META_REF_MAX + 1];	/* "" if it has none */
		char rootfs[META_PATH_MAX + 1]; /* rootfs.erofs, relative to the mount */
		char digest[129];		/* of rootfs.erofs: its user.smfs.digest */
		uint64_t size;
	} image;

	char parent[129]; /* snapshot this one is a diff of, "" if whole */
	uint64_t generation;
	uint8_t uuid[16];

	struct meta_device device[META_DEVICES_MAX];
	unsigned ndevices;

	uint64_t vcpu_bytes; /* length of `vcpu` */
	uint64_t vcpu_xxh3;  /* XXH3-64 of the whole `vcpu` file */
};

/* The file's text, NUL-terminated; the caller frees. */
int meta_encode(const struct snapshot_meta *m, char **out, size_t *len, struct err *err);

/*
 * EBADMSG: damaged or malformed. ENOTSUP: a newer format, a required feature unknown here, or
 * another architecture. Says nothing about whether this host fits: hostcpu_fits() and restore.h do.
 */
int meta_decode(const char *text, size_t len, struct snapshot_meta *m, struct err *err);

/* A device of this id may have a file of that name in the snapshot's directory. */
bool meta_content_name(const char *id);

/* Copy a text into a member of `size` bytes: false, and nothing copied, if it does not fit. */
bool meta_text(char *out, size_t size, const char *text);

#endif
