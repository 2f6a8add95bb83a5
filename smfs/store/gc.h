/*
 * gc.h - garbage collection: what no name, lease or ingest needs is freed, beside all of them.
 *
 * PHASES of smfs_gc(), each in its file. All work is done in short index transactions, so that a
 * commit waits for milliseconds; readers never wait.
 *
 *   mark      (gc_mark.c) everything reachable from the names and from leased roots is put in a
 *             set.
 *   condemn   (gc.c) frames of the index outside the set move to `condemned`, a batch a
 *             transaction. From then on nobody new finds them: who wants that content writes it
 *             again. Each batch raises the index's gc_gen. A transaction that finds a newer
 *             sequence number than was marked marks the difference first, so a name that came
 *             meanwhile keeps all it reaches.
 *   expire    (gc.c) condemned frames that no pin is older than are forgotten. A handle or an
 *             ingest that began before the condemnation may still read them or refer to them:
 *             its pin says so, and the frames wait, readable, for a later collection. An ingest
 *             that commits while they wait takes those it needs back (ingest_commit.c).
 *   sweep     (gc_sweep.c) packs with nothing alive in them are removed.
 *   compact   (gc_compact.c) what lives in packs that are mostly dead is copied to another pack,
 *             synced, and the index pointed there; then the old pack is removed.
 *
 * ORDER of a removal. 1. flock of the pack: no writer appends to it. 2. One index transaction
 * drops it from `packs`, nothing in the index refers to it any more, and the journal says that it
 * is gone. 3. Only then the file is cut to nothing, which returns its space whoever has it open,
 * and unlinked. A crash between 2 and 3 leaves a pack the index does not know, which the next
 * writer removes. A reader that looked a frame's place up before 2 finds no frame there and looks
 * again (object.c); readers hold no locks and are never waited for.
 *
 * CRASHES. The store is consistent after each transaction: death at any point leaves garbage only.
 * `gc_busy` stays set by a collection that died while condemning; commits are then careful
 * (they look below what they refer to) until the next collection ends.
 *
 * MEMORY. 8 bytes of each reachable chunk's id in a hash table at most three quarters full: 11 to
 * 21 MB per million chunks, half as much again while it grows. Two ids that share those bytes would
 * keep one garbage chunk, no more. Nodes are remembered whole (40 bytes, 53 to 107 with the table's
 * air), since a node taken for another would hide what is below it; there is about one for 256
 * chunks of RAM, and one for each directory. Packs: 40 bytes each. Everything else is bounded.
 */
#ifndef SMFS_STORE_GC_H
#define SMFS_STORE_GC_H

#include "smfs/store/idset.h"
#include "smfs/store/index_gc.h"
#include "smfs/store/store_priv.h"
#include "smfs/store/walk.h"

#define GC_BATCH 1024u /* frames a transaction changes */

/* A set of chunks by 8 bytes of their ids. */
struct fpset {
	uint64_t *v; /* 0 = free */
	size_t n, cap;
};

struct pack_use {
	uint64_t id, len;
	uint64_t live; /* bytes of frames the index knows, condemned or not */
	uint64_t frames;
};

struct gc {
	struct smfs_store *s;
	struct smfs_gc *out;
	bool dry;

	struct walk w;
	struct fpset chunks;
	struct idset nodes;
	uint64_t seq;		       /* all names up to this commit are marked */
	uint64_t min_pin;	       /* when what is condemned was forgotten */
	char where[SMFS_REF_MAX + 16]; /* whose tree is being walked */

	struct index_frame *page;  /* GC_BATCH of them: a page of a scan */
	struct index_frame *found; /* GC_BATCH: what the scan is after */
	size_t nfound;

	struct pack_use *packs; /* by id */
	size_t npacks;
};

static inline int gc_stopped(const struct gc *g, struct err *err)
{
	if (g->out->stop && g->out->stop(g->out->arg))
		return err_set(err, EINTR, "stopped");
	return 0;
}

/* index_update() with the time it takes noted. */
int gc_update(struct gc *g, index_fn fn, void *arg, struct err *err);

/* gc_mark.c: mark what is reachable now and was not before; sets g->seq. */
int gc_mark(struct gc *g, struct err *err);
bool gc_is_marked(const struct gc *g, uint8_t kind, const struct smfs_id *id);
void gc_mark_free(struct gc *g);

/* gc_sweep.c: which packs are how full, then remove the empty ones. */
int gc_count(struct gc *g, struct err *err);
int gc_sweep(struct gc *g, struct err *err);

/* A pack nobody appends to, locked; fd < 0: somebody does, or it has changed since it was counted.
 */
struct locked_pack {
	struct pack_use *use;
	int fd;
};
int gc_lock_pack(struct gc *g, struct pack_use *use, struct locked_pack *out, struct err *err);
/* In a transaction: the index and the journal's record let go of the pack. */
int gc_txn_drop(struct index_txn *txn, const struct locked_pack *p, struct index_pack *gone,
		struct err *err);
/* After it: the space back. Closes the pack. */
void gc_erase_pack(struct gc *g, struct locked_pack *p);

/* gc_compact.c */
int gc_compact(struct gc *g, struct err *err);

#endif
