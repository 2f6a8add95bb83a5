/*
 * stream.h - a file on its way into an ingest, inside the library.
 *
 * CHUNKS are cut off the front as they fill. A chunk becomes a *piece* of the stream's current
 * job; a full job goes to the store's workers, which trim zeros, hash, look up, compress and
 * append. Where the result belongs, a *slot*, is settled before, in file order, so the map does not
 * depend on the order in which workers finish.
 *
 * A JOB is run in three steps. Its pieces are hashed and looked up, which is all for what is stored
 * already. What is not is *planned*, one job after the other in file order (pages.h): as a chunk,
 * or, where pages of it are known, as runs of other chunks; so the plans do not depend on the
 * workers' order either. Then it is carried out: packs of new pages are stored, a piece of runs
 * waits for the chunks the runs are from, compares, and is stored as a chunk after all when a run
 * does not hold. Files that end within their first job have no such pieces.
 *
 * LEAVES of the map own the slots of one LEAF_SPAN. A leaf is sealed, made a node and freed, by
 * whoever settles its last slot after the stream moved on; so memory is bounded by the jobs in
 * flight, not by the file, but for what is small: the ids of sealed leaves stay with the stream
 * until finish builds the inner nodes, and an origin (pages.h) for each chunk.
 *
 * A file that ends within its first job never meets another thread.
 *
 * A DIFF (stream_diff.c) stands before all this: it hands on chunks, packs of changed pages, which
 * fill slots in several leaves, and extents of the base's chunks, whose slots are settled at once.
 */
#ifndef SMFS_STORE_STREAM_H
#define SMFS_STORE_STREAM_H

#include "smfs/store/ingest.h"
#include "smfs/store/map.h"
#include "smfs/store/pages.h"

#define JOB_BYTES  MIB
#define JOB_PIECES 64

/* A region of several extents, offsets within the span. */
struct mixed {
	struct smfs_id id; /* of the region's bytes, as if they were a chunk */
	unsigned n;
	struct map_extent e[CHUNK_PAGES];
};

/* An extent of the file, filled in by a worker; len 0 = zeros, no extent. */
struct slot {
	struct map_extent e;
	struct mixed *mixed; /* instead, if not NULL */
};

#define SLAB_SLOTS 256
struct slab {
	struct slab *next;
	unsigned n;
	struct slot slot[SLAB_SLOTS];
};

struct leaf {
	struct smfs_stream *st;
	uint64_t index;	  /* of its span in the file */
	atomic_uint refs; /* unsettled slots, and one while the stream adds to it */
	uint32_t nslots;
	struct slab *first, *last;
};

/* Where a part of a pack belongs. Its slot has all but the id. */
struct place {
	struct leaf *leaf;
	struct slot *slot;
};

struct piece {
	const uint8_t *p;
	uint32_t len, off;    /* off: in its span */
	struct place *packed; /* a pack's places, in malloc()ed memory, instead of all below */
	unsigned npacked;
	struct leaf *leaf;
	struct slot *slot;
	struct look *look; /* what is found out about it, see below; NULL: put it and that is all */
};

/* A piece that is a whole region of a large file, from step to step. */
struct look {
	struct smfs_id id;
	uint32_t len; /* without trailing zeros */
	int there;    /* ingest_find_chunk()'s result, with its place */
	struct frame_loc loc;
	bool settled; /* its slot is */
	struct page_facts facts;
	struct page_plan plan;
};
#define JOB_LOOKS (JOB_BYTES / FRAME_SIZE)

struct job {
	struct job *next; /* in the ingest's list of idle jobs */
	struct smfs_stream *st;
	unsigned n;
	size_t bytes;	 /* of its pieces */
	size_t used;	 /* of buf */
	uint64_t number; /* of the stream's */
	bool alone;	 /* the only one */
	struct piece piece[JOB_PIECES];
	uint8_t *buf;		 /* JOB_BYTES, on first use */
	struct job_pages *pages; /* on first use */
};

/* What a job needs to look for pages. */
struct job_pages {
	struct look look[JOB_LOOKS];
	unsigned nlooks;
	/* A region begins one pack at most. */
	struct page_pack pack[JOB_LOOKS];
	unsigned npacks;
	uint8_t bytes[FRAME_SIZE]; /* of a pack */
};

/* What is left of a sealed leaf. */
struct sealed {
	uint64_t index;
	struct smfs_id id;
};

struct smfs_stream {
	struct smfs_ingest *ing;
	bool stable;
	bool failed;	     /* a write failed: there is nothing to finish */
	atomic_bool dropped; /* aborted: seal no more leaves */
	uint64_t start;	     /* where the current chunk starts in the file */
	uint32_t fill;	     /* its bytes so far, at job->buf + job->used */
	uint64_t chunks;     /* emitted, zeros included */
	struct leaf *leaf;
	struct job *job;
	struct pages *pages; /* of who plans */
	struct diff *diff;   /* NULL: not a diff */

	pthread_mutex_t lock;	/* of what follows and the origins' fields */
	pthread_cond_t changed; /* `running` is 0, a job is planned, or an origin settled */
	unsigned running;	/* jobs with the workers */
	uint64_t jobs;		/* numbered so far */
	uint64_t planned;	/* jobs */
	struct sealed *sealed;
	size_t nsealed, sealed_cap;
};

/* Room for at least one byte, and up to the end of the current chunk, to read file data into. */
int stream_room(struct smfs_stream *st, uint8_t **p, size_t *len, struct err *err);
/* `len` bytes were put there. */
int stream_filled(struct smfs_stream *st, size_t len, struct err *err);

/* `len` bytes at `p`, copied, are the next chunk. */
int stream_chunk(struct smfs_stream *st, const uint8_t *p, uint32_t len, struct err *err);
/* They are a chunk whose parts belong at these places, whose references to leaves it takes over. */
int stream_pack(struct smfs_stream *st, const uint8_t *p, uint32_t len, const struct place *places,
		unsigned n, struct err *err);
/* The file gets `len` more bytes: may it? */
int stream_grow(struct smfs_stream *st, uint64_t len, struct err *err);
/* The next `len` bytes are zeros. */
void stream_skip(struct smfs_stream *st, uint64_t len);

/* stream_diff.c */
int diff_write(struct smfs_stream *st, const uint8_t *p, uint64_t len, struct err *err);
int diff_hole(struct smfs_stream *st, uint64_t len, struct err *err);
void diff_room(struct smfs_stream *st, uint8_t **p, size_t *len);
int diff_filled(struct smfs_stream *st, size_t len, struct err *err);
/* Bytes of the file the diff has taken that the stream does not know of yet. */
uint32_t diff_held(const struct smfs_stream *st);
/*
 * A leaf of the diff is complete in *w: 0, and *w may have become a delta of the base's; 1 when it
 * is one of the store's leaves, *id. Any thread.
 */
int diff_leaf(struct smfs_stream *st, uint64_t index, struct writer *w, struct smfs_id *id,
	      struct err *err);
int diff_finish(struct smfs_stream *st, struct err *err);
void diff_free(struct smfs_stream *st);

/* stream_piece.c */
/* Trim, hash, store: the trimmed length in *len, 0 for zeros. */
int piece_store(struct smfs_ingest *ing, const uint8_t *p, uint32_t *len, struct smfs_id *id,
		struct err *err);
/* The steps of a job; errors stay with the ingest. pieces_run() settles all slots. */
void pieces_look(struct smfs_stream *st, struct job *j);
void pieces_plan(struct smfs_stream *st, struct job *j);
void pieces_run(struct smfs_stream *st, struct job *j);
/* It will not be run. */
void piece_drop(struct piece *pc);

/* stream_known.c */
/* Where the store has the pages that look->facts has the hashes of. */
void known_pages(struct smfs_stream *st, struct look *look);
/* A region that the store has as a mixed one: look->plan is its runs, compared. */
bool known_region(struct smfs_stream *st, const uint8_t *p, struct look *look);
/* Is each run, but packed ones, really that of its chunk, which stays in the store? Bytes are
 * compared. */
bool runs_hold(struct smfs_stream *st, const uint8_t *p, const struct page_plan *plan);
/* For later: the pages of a chunk just put, and the mixed regions of a leaf. */
void note_pages(struct smfs_stream *st, const uint64_t *hash, unsigned n, const struct smfs_id *id);
void note_regions(struct smfs_stream *st, const struct leaf *leaf, const struct smfs_id *id);

/* stream_leaf.c */
int leaf_add(struct smfs_stream *st, uint64_t off, struct slot **slot, struct err *err);
/* A slot of `leaf` is settled, or (the stream's reference) no more will be added. */
void leaf_put(struct leaf *leaf);
void leaf_discard(struct leaf *leaf);
/* The span `index` is that leaf of the store, as it is. */
int leaf_copy(struct smfs_stream *st, uint64_t index, const struct smfs_id *id, struct err *err);
int stream_root(struct smfs_stream *st, struct smfs_content *out, struct err *err);

#endif
