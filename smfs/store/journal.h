/*
 * journal.h - the durable, ordered record of every change of names.
 *
 * One record per commit: sequence number, time, the packs it appended to with their lengths, and
 * what happened to which names. It is what rebuilds names when the index is lost, and the lineage
 * of the store. Only the first index_meta.journal_len bytes count; a record is appended there and
 * synced inside the index transaction that will make it count (ingest_commit.c), so records are
 * serialised by the index and the tail of a writer that died is overwritten.
 */
#ifndef SMFS_STORE_JOURNAL_H
#define SMFS_STORE_JOURNAL_H

#include "smfs/store/index.h"

#define JOURNAL_HEAD_LEN 64u

enum journal_op { OP_PUBLISH = 1, OP_REMOVE = 2, OP_RENAME = 3 };

struct journal_change {
	enum journal_op op;
	struct smfs_name name;	     /* as it is after (publish, rename) or was before (remove) */
	char from[SMFS_REF_MAX + 1]; /* rename: the old name */
};

struct journal_record {
	uint64_t seq;
	int64_t time; /* ns */
	const struct index_pack *packs;
	size_t npacks;
	const struct journal_change *changes;
	size_t nchanges;
};

void journal_head_encode(const uint8_t uuid[UUID_LEN], uint8_t out[JOURNAL_HEAD_LEN]);
int journal_head_check(int fd, const uint8_t uuid[UUID_LEN], struct err *err);

/*
 * Cut off what follows `len`, all that the index counts: a commit that was cut short. Not synced.
 * -EBADMSG: it is more than one commit leaves, so the index has lost some.
 */
int journal_cut(int fd, uint64_t len, struct err *err);

/* Write and sync `rec` at *len; *len becomes the new length. What followed is cut off. */
int journal_append(int fd, uint64_t *len, const struct journal_record *rec, struct err *err);

/* Write `rec` at *len, which becomes the new length: neither cut off nor synced. */
int journal_put(int fd, uint64_t *len, const struct journal_record *rec, struct err *err);

/*
 * Read [JOURNAL_HEAD_LEN, len) and hand every record on, in order; sequence numbers must be
 * consecutive. -EBADMSG with the offset of the first record that is not whole. A negative result
 * of `fn` ends the walk and is returned.
 */
typedef int (*journal_fn)(const struct journal_record *rec, void *arg, struct err *err);
int journal_each(int fd, uint64_t len, journal_fn fn, void *arg, struct err *err);

/*
 * The same for a journal that may be damaged: every record that is whole, wherever it is found in
 * [JOURNAL_HEAD_LEN, len), with where it is; and through `lost` every stretch in which there is
 * none. Sequence numbers are the caller's to check.
 */
struct journal_scan {
	int (*record)(struct journal_scan *scan, const struct journal_record *rec, uint64_t off,
		      uint64_t len, struct err *err);
	int (*lost)(struct journal_scan *scan, uint64_t from, uint64_t to, struct err *err);
};
int journal_scan(int fd, uint64_t len, struct journal_scan *scan, struct err *err);

#endif
