/*
 * ingest.h - an ingest inside the library: what streams, directories and the commit share.
 *
 * PENDING TABLE. Every frame this ingest met has an entry: claimed by the thread that first met
 * it and then either found in the index (PEND_INDEXED) or written by this ingest (PEND_WRITTEN).
 * A second thread that meets the same id counts it as present already: should the first
 * fail to write it, the whole ingest has failed (below) and nothing refers to it.
 *
 * COLLECTION. The ingest pins what is in the index when it begins (lease.h), so that what it finds
 * there stays readable until it ends. But the collector may meanwhile take an entry that was
 * PEND_INDEXED out of the index; the commit then brings it back (ingest_commit.c). A frame that is
 * referred to without being put (of a base, or of a content the caller knows) has to be in `refs`
 * instead: the commit then looks at everything below it, too.
 *
 * FAILURE IS STICKY. The first error of any thread is kept; from then on every call returns it, and
 * commit refuses. So no frame, node or name can become visible that refers to what was not written.
 */
#ifndef SMFS_STORE_INGEST_H
#define SMFS_STORE_INGEST_H

#include "smfs/store/idset.h"
#include "smfs/store/journal.h"
#include "smfs/store/packw.h"
#include "smfs/store/page_index.h"

#include <stdatomic.h>

enum pend_state { PEND_CLAIMED, PEND_INDEXED, PEND_WRITTEN };

struct pend {
	struct smfs_id id;
	struct frame_loc loc; /* when written; .kind always */
	uint64_t logical;     /* directories: bytes of the tree */
	uint8_t state;
};

struct staged {
	enum smfs_kind kind;
	char name[SMFS_REF_MAX + 1];
	struct smfs_name rec;
	unsigned flags;
};

struct job;

struct smfs_ingest {
	struct smfs_store *s;
	struct packw *packw;
	uint32_t pin;	 /* a lease */
	uint64_t gc_gen; /* the index's when the pin began */

	pthread_mutex_t lock;	/* of the pending table and the staged names */
	pthread_cond_t settled; /* a claimed entry is, or the ingest failed */
	struct pend *pend;	/* in order of arrival */
	size_t npend, pend_cap;
	uint32_t *slots; /* open addressing: index into pend + 1, 0 = free */
	size_t nslots;	 /* power of two */
	struct staged *staged;
	size_t nstaged;
	struct idset refs; /* bits: a map node's level */

	pthread_mutex_t fail_lock;
	atomic_bool failed;
	struct err fail;

	atomic_int_fast64_t budget; /* bytes to write before the limit is asked again */
	pthread_mutex_t budget_lock;

	pthread_mutex_t notes_lock;
	struct page_note *notes;
	size_t nnotes, notes_cap;

	pthread_mutex_t jobs_lock;
	struct job *free_jobs; /* see stream.c */

	atomic_uint_fast64_t logical, zero, dup, fresh, stored;
};

/* Keep `err` (of result `r`) as the ingest's failure if it is the first. Returns r. */
int ingest_fail(struct smfs_ingest *ing, int r, const struct err *err);
/* The kept failure, or 0. */
int ingest_check(struct smfs_ingest *ing, struct err *err);

/* -EBADMSG: two contents meet in one id. */
int ingest_collision(const struct smfs_id *id, struct err *err);

/*
 * Make sure the frame with these raw bytes will be in the store, and give its id. Any thread.
 * `logical` is kept with the id of a directory.
 */
int ingest_put(struct smfs_ingest *ing, uint8_t kind, const void *raw, uint32_t len,
	       uint64_t logical, struct smfs_id *id, struct err *err);

/*
 * The same for a chunk whose id is known. `found`: where the index has it, as ingest_find_chunk()
 * said, or NULL.
 */
int ingest_put_chunk(struct smfs_ingest *ing, const void *raw, uint32_t len,
		     const struct smfs_id *id, const struct frame_loc *found, struct err *err);
/* Is the chunk there? 1 = in the store, at *loc; 2 = this ingest has met it; 0 = neither. */
int ingest_find_chunk(struct smfs_ingest *ing, const struct smfs_id *id, struct frame_loc *loc);

/*
 * A frame that comes compressed, from another store. First the claim, by the thread that decides
 * the order: from then on nodes may refer to the frame (`note` is a directory's logical bytes, a
 * map node's level). EBADMSG when this ingest has claimed that id before. Then the frame, checked
 * and appended as it is, unless the index has it; any thread. Between the two there is only
 * failure, which is sticky.
 */
int ingest_claim_frame(struct smfs_ingest *ing, const struct frame_head *h, uint64_t note,
		       size_t *claim, struct err *err);
int ingest_put_frame(struct smfs_ingest *ing, size_t claim, const struct frame_head *h,
		     const void *payload, struct err *err);
/*
 * 1 = in this ingest or the store, with its raw length; *note as claimed, when it is of this ingest
 * (*own). 0 = not.
 */
int ingest_find_frame(struct smfs_ingest *ing, uint8_t kind, const struct smfs_id *id,
		      uint32_t *raw_len, uint64_t *note, bool *own, struct err *err);

/*
 * Where a chunk is that this ingest has put: 1 with *loc; 0 when it is not to be found after all.
 * Waits for the thread that is writing it.
 */
int ingest_chunk_loc(struct smfs_ingest *ing, const struct smfs_id *id, struct frame_loc *loc);

/* Where a frame is that this ingest has written, in packs of its own: true with *loc. */
bool ingest_written(struct smfs_ingest *ing, uint8_t kind, const struct smfs_id *id,
		    struct frame_loc *loc);

/* -EINVAL unless what the entry refers to is in the store or in this ingest. */
int ingest_has_content(struct smfs_ingest *ing, const struct smfs_content *c, struct err *err);
/* The same for a directory; its tree's bytes in *logical. */
int ingest_has_dir(struct smfs_ingest *ing, const struct smfs_id *id, uint64_t *logical,
		   struct err *err);

/*
 * This ingest will refer to a frame that is in the store, without putting it. `level` is a map
 * node's. Any thread.
 */
int ingest_refer(struct smfs_ingest *ing, uint8_t kind, const struct smfs_id *id, uint8_t level,
		 struct err *err);
/* All that was referred to and all below it, into `out`. */
int ingest_refs_below(struct smfs_ingest *ing, struct idset *out, struct err *err);

/*
 * ingest_commit.c, for any change the journal tells: the index's state with the next sequence
 * number, and step 5 and the bookkeeping of 6.
 */
int commit_next(struct index_txn *txn, struct index_meta *m, struct err *err);
int commit_record(struct smfs_store *s, struct index_txn *txn, struct index_meta *m,
		  struct journal_record *rec, struct err *err);
/*
 * Before anything that no commit counted is taken from packs/: the journal has no record of such a
 * commit any more, for a repair to believe. Not within a transaction.
 */
int commit_settle(struct smfs_store *s, struct err *err);

/*
 * ingest_notes.c: what the index of pages is told when the ingest has been committed. Any thread;
 * what there is no memory for is forgotten.
 */
void ingest_note(struct smfs_ingest *ing, const struct page_note *notes, size_t n);
void ingest_notes_write(struct smfs_ingest *ing);

/* stream.c: memory of idle jobs. */
void ingest_free_jobs(struct smfs_ingest *ing);

#endif
