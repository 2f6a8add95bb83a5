/*
 * limit.h - how large a store may become, and what it leaves of its file system.
 *
 * LIMIT. A store may have one, in its file `limit` (doc/store-format.md): a bound of disk_bytes,
 * that is of packs, index and journal as they take blocks on disk. Frames that no commit has
 * recorded yet count, since they are on disk, so ingests see each other without talking. An ingest
 * measures before its first new frame, then each time it has written a 64th of the room there was
 * (8 MiB at least), and once more before it commits. So what is committed is within the limit, but
 * for the pages the index's own update takes (estimated before); and on the way ingests that run at
 * once exceed it together by at most 8 MiB each, up to 64 of them.
 *
 * RESERVE. Ingests leave 1 % of the file system free, 64 MiB at most, unless told: a full disk must
 * still take what makes room again, the index pages and journal record of a removal and a gc's copy
 * of what it keeps of a pack. 64 MiB are some thousand removals, or a good part of a pack. So
 * whoever removes or compacts appends without asking here.
 *
 * THE CACHE of materialised files (spare.h) is within both, and gives way: before an ingest is
 * refused, and when packs, index, journal and cache together would exceed the limit, files of it
 * that nobody has in use are removed. Those in use stay and do not count against an ingest. Whoever
 * adds to the cache stays within what all of it leaves of the limit, and outside the reserve.
 */
#ifndef SMFS_STORE_LIMIT_H
#define SMFS_STORE_LIMIT_H

#include "smfs/store/store_priv.h"

#define LIMIT_STEP (8 * MIB)

/* used: measured only if there is a limit or `measure`. */
int limit_room(struct smfs_store *s, bool measure, struct smfs_room *out, struct err *err);

/*
 * May `need` bytes be written, by an ingest that has written `mine`? EDQUOT or ENOSPC if not.
 * *budget: how much it may write before it asks again, `need` included.
 */
int limit_check(struct smfs_store *s, uint64_t need, uint64_t mine, uint64_t *budget,
		struct err *err);
/* Before the commit: only the limit, since what is written is written. */
int limit_check_commit(struct smfs_store *s, uint64_t need, uint64_t mine, struct err *err);

#endif
