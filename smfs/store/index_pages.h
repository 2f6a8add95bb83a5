/*
 * index_pages.h - proof that the index's pages are whole, before LMDB trusts them.
 *
 * LMDB believes its pages: an offset or page number that damage has changed makes it read or
 * write wherever that points. So an index is read once, by descriptor, with every bound checked,
 * and LMDB gets to see it only when
 *   - both header pages are what a commit writes, one commit apart;
 *   - every page reached from the newest header is of the right kind, knows its own number, is
 *     reached once, and is filled with its nodes without gap or overlap;
 *   - keys ascend, trees are of the depth and counts their records say;
 *   - the list of free pages names no page in use, and none twice;
 *   - each record of our databases carries the right sum over key and value (index_priv.h).
 * What no tree reaches is not read, and damage there harms nobody.
 *
 * COST. Every page in use, once: 80 ms for a million frames (77 MB) in memory. A seal beside the
 * index tells that this very state was proven in this boot (index_seal.c), so only the first open
 * after a boot, a copy or a foreign write pays.
 *
 * Knows the file format of LMDB 0.9 on 64-bit little-endian machines; any other is refused, as
 * LMDB itself would.
 */
#ifndef SMFS_STORE_INDEX_PAGES_H
#define SMFS_STORE_INDEX_PAGES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "smfs/base/err.h"

struct index_head {
	uint64_t txnid;	  /* of the newest header */
	uint64_t last_pg; /* highest page number ever used */
	uint32_t psize;
};

/*
 * The two headers of data.mdb, which a commit may be rewriting: they are read until they hold
 * still. 0, or -EBADMSG with what is wrong.
 */
int index_head_check(int fd, struct index_head *out, struct err *err);

/*
 * All pages reached from the header of `txnid`. A reader of that transaction must be registered
 * with LMDB, so that writers leave its pages alone. -EBADMSG names the page.
 */
int index_pages_check(int fd, uint64_t txnid, struct err *err);

/*
 * What can still be read of one database of a file that may be damaged: every record that is
 * reached and whose sum is right. *current tells whether both headers are whole, so that the
 * records are of the last commit and not of one before. 0 = all of it was read; -EBADMSG = some of
 * it is lost, or all. A negative result of `fn` ends the walk.
 */
typedef int (*index_record_fn)(const void *key, size_t klen, const void *value, size_t len,
			       void *arg, struct err *err);
int index_salvage(int fd, const char *db, index_record_fn fn, void *arg, bool *current,
		  struct err *err);

#endif
