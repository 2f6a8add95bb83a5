/*
 * fsck_priv.h - one check of a store: fsck.c (order, names) and fsck_pack.c (packs).
 *
 * Writers may run beside it. The names are listed first, the index's frames next, the packs'
 * lengths last: each is covered by what is read after it, as collections, which alone
 * take anything away, are held off.
 */
#ifndef SMFS_STORE_FSCK_PRIV_H
#define SMFS_STORE_FSCK_PRIV_H

#include "smfs/store/idset.h"
#include "smfs/store/store_priv.h"

/* Bits of a frame the index knows. */
#define FSCK_SEEN    1u /* found whole in its pack */
#define FSCK_BAD     2u
#define FSCK_REACHED 4u /* from some name */
#define FSCK_CLEAN   8u /* a node below which all is well */

struct fsck {
	struct smfs_store *s;
	struct smfs_fsck *out;
	bool read_data;
	uint64_t findings;
	struct idset frames; /* all the index knows when the check begins */
};

void fsck_report(struct fsck *f, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Every frame of every pack; sets FSCK_SEEN. */
int fsck_packs(struct fsck *f, struct err *err);

#endif
