/*
 * page_index.h - where pages of stored content are, over all files of a store: DIR/pages.
 *
 * A table from a hash of 4 KiB to a *place*: the beginning of a frame's id and a number within it.
 * It also finds, by the id of a region of a file, the leaf of a map that has that region already
 * (stream_known.c), so that equal content gets an equal map.
 *
 * IT ONLY PROPOSES. Who takes a proposal looks the frame up and compares bytes. So an entry may be
 * lost, stale, torn or invented: that costs density, never a byte. Nothing but an ingest looks at
 * the file; it may be removed at any time, is never synced, and is no part of a check, a repair
 * or a collection.
 *
 * An entry is one 64-bit word, read and written whole, so any number of processes use the file
 * at once without locks; it is mapped, and its blocks are allocated before, so that a full disk is
 * no SIGBUS. Many entries are put in by rewriting parts of the file: what another process puts
 * there in that moment is lost. A table that gets full is copied to a larger one, which takes its
 * name; who still has the old one mapped writes to it in vain until the next page_index_follow().
 * At its largest, PAGE_INDEX_MAX, what comes later replaces what came before.
 *
 * Threads: any. Ownership: the store's; page_index_new() and nothing else allocates.
 */
#ifndef SMFS_STORE_PAGE_INDEX_H
#define SMFS_STORE_PAGE_INDEX_H

#include "smfs/store/format.h"

#define PAGE_INDEX_FILE "pages"
#define PAGE_INDEX_MAX	(128 * MIB) /* 2^24 entries: 64 GiB of distinct pages */

struct page_index;

/* A place: 40 bits, not 0. The low bits, PLACE_PAGE or PLACE_REGION of them, are the number. */
#define PLACE_BITS   40u
#define PLACE_PAGE   4u
#define PLACE_REGION 8u

static inline uint64_t place_of(const struct smfs_id *id, unsigned bits, unsigned number)
{
	uint64_t prefix = 0;

	for (unsigned i = 0; i < PLACE_BITS / 8; i++)
		prefix = prefix << 8 | id->b[i];
	return (prefix & ~(((uint64_t)1 << bits) - 1)) | number;
}

static inline unsigned place_number(uint64_t place, unsigned bits)
{
	return (unsigned)(place & (((uint64_t)1 << bits) - 1));
}

/* `dirfd` stays the caller's. No file is made or read before the first call that needs it. */
int page_index_new(int dirfd, const uint8_t uuid[UUID_LEN], struct page_index **out);
void page_index_free(struct page_index *px);

/* Use the table that has the name by now. */
void page_index_follow(struct page_index *px);

/* Where `n` pages may be, 0: nothing. A hash of 0 is none's. What is proposed for another page's
 * hash is, but for one in some 10,000, the place of no frame at all. */
void page_index_find(struct page_index *px, const uint64_t *hash, unsigned n, uint64_t *place);

struct page_note {
	uint64_t hash, place;
};
/* Replaces what these hashes led to. Makes the file, and makes it larger. Failures are silent. */
void page_index_add(struct page_index *px, const struct page_note *notes, size_t n);

#endif
