/*
 * pages.h - which pages of a stream's regions are in the store or came before in the stream.
 *
 * Guest RAM holds many pages that are stored already: a file in the page cache and its copy, a
 * program's data and what it was read from, the same guest a minute ago, another guest of the same
 * kind. But seldom at the same place in a chunk, or with all of the chunk unchanged, so that equal
 * chunks do not find them. A REGION of a file, FRAME_SIZE bytes that would be a chunk, some of
 * whose pages are found becomes MIXED: extents of at most REGION_FRAMES frames. What is found
 * nowhere is packed, with that of the regions around, into a chunk of its own, whole regions to a
 * pack.
 *
 * Two tables find pages: that of the stream, here, and that of the store (page_index.h). Both only
 * *propose*: they compare hashes that are no identity. Who carries out a plan compares bytes
 * with what was stored (stream_piece.c).
 *
 * Plans are made in file order and depend on the stream's content, on what the store held before
 * the ingest, and on nothing else: not on what workers finish first. Memory is a fixed table, in
 * which what comes later replaces what came before, and an origin per chunk that pages are taken
 * from. One thread at a time; an origin's fields are its settler's, see stream.h.
 */
#ifndef SMFS_STORE_PAGES_H
#define SMFS_STORE_PAGES_H

#include "smfs/store/format.h"

#define PAGE_LEN      4096u
#define CHUNK_PAGES   (FRAME_SIZE / PAGE_LEN)
#define REGION_FRAMES 8u

/* A chunk that pages may be found in. Lives as long as the table. */
struct origin {
	struct smfs_id id; /* when stored */
	uint32_t len;	   /* without its trailing zeros */
	enum { ORIGIN_OPEN, ORIGIN_STORED, ORIGIN_LOST } state;
};

/* `len` bytes at `off` of the region seem to be those at `from_off` of a chunk. */
struct page_run {
	struct origin *from;
	uint32_t off, from_off, len;
	bool packed; /* no: they are, as they are put there */
};

/* What is known of a region's pages before the plan; filled by any thread (pages_look()). */
struct page_facts {
	uint64_t hash[CHUNK_PAGES]; /* 0: a page of zeros */
	/* In which chunk of the store it seems to be: an index into `found`, or CHUNK_PAGES. */
	uint8_t in[CHUNK_PAGES], page[CHUNK_PAGES];
	struct origin found[CHUNK_PAGES];
	unsigned nfound;
};

/* Pages of several regions that will be one chunk. */
struct page_pack {
	struct origin *origin;
	unsigned n;
	const uint8_t *page[CHUNK_PAGES];
	uint64_t hash[CHUNK_PAGES];
};

struct page_plan {
	unsigned nruns; /* 0: the region is a chunk */
	struct page_run run[CHUNK_PAGES];
	struct origin *origin; /* the chunk's, to be settled, or NULL: it has nothing new */
};

struct pages;

int pages_new(struct pages **out);
void pages_free(struct pages *pg);

/* The hashes; nothing found yet. */
void pages_hash(const uint8_t *p, struct page_facts *f);

/*
 * What to do with the region of FRAME_SIZE bytes at `p`. `packs`: those begun so far, *npacks, with
 * room for one more; what the region adds to them points into `p`. -ENOMEM.
 */
int pages_plan(struct pages *pg, const uint8_t *p, const struct page_facts *f,
	       struct page_pack *packs, unsigned *npacks, struct page_plan *plan);

#endif
