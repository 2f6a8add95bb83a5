/*
 * pages.h - finds chunks of a stream that are made of pages the stream had before.
 *
 * Guest RAM holds many pages twice (a file in the page cache and its copy, a program's data and
 * what it was read from), but seldom at the same place in a chunk, so that equal chunks do not find
 * them. A chunk whose pages all came before, in at most PAGE_RUNS stretches of earlier chunks,
 * becomes that many extents of those chunks instead of a chunk of its own. The bound keeps reading
 * it cheap.
 *
 * This table only *proposes*: it compares hashes that are no identity. Who takes a proposal
 * compares bytes with what was stored (stream_piece.c).
 *
 * Proposals depend on the stream's content alone, so one content has one map. Memory is a fixed
 * table, in which what comes later replaces what came before, and an origin per chunk stored.
 * One thread at a time; an origin's fields are its settler's, see stream.h.
 */
#ifndef SMFS_STORE_PAGES_H
#define SMFS_STORE_PAGES_H

#include "smfs/store/format.h"

#define PAGE_LEN    4096u
#define CHUNK_PAGES (FRAME_SIZE / PAGE_LEN)
#define PAGE_RUNS   8u

/* A chunk that later pages may be found in. Lives as long as the table. */
struct origin {
	struct smfs_id id; /* when stored */
	uint32_t len;	   /* without its trailing zeros */
	enum { ORIGIN_OPEN, ORIGIN_STORED, ORIGIN_LOST } state;
};

/* `len` bytes at `off` of the new chunk seem to be those at `from_off` of an earlier one. */
struct page_run {
	struct origin *from;
	uint32_t off, from_off, len;
};

struct pages;

int pages_new(struct pages **out);
void pages_free(struct pages *pg);

/*
 * What to do with the FRAME_SIZE bytes at `p`: > 0: so many runs, what they leave out is zero. 0:
 * store it as a chunk; *origin is its record, to be settled, or NULL when it has nothing new.
 */
int pages_match(struct pages *pg, const uint8_t *p, struct page_run runs[PAGE_RUNS],
		struct origin **origin);

#endif
