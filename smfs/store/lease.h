/*
 * lease.h - what a process needs of the store beyond what names keep: pins and leased roots.
 *
 *   pin    "everything that was in the index at generation g": the collector keeps every frame
 *          condemned after g. Held by each open handle (so that a short-lived reader need not think
 *          of collection at all) and by each ingest, which deduplicates against what it finds.
 *   root   "everything below this directory": a root of the collector's walk, as a name is. Held by
 *          mounts, which live too long to pin, for each name somebody in the kernel looks at.
 *
 * A handle keeps them in the slots of a file of its own, tmp/lease.<random>, mapped shared. The
 * handle holds flock(LOCK_EX) on it, so the leases of a process that died are gone with it: who
 * finds the file unlocked removes it. A child made by fork(2) shares the lock, and so prolongs
 * what its parent had leased. Where no file can be had (full disk, read-only medium) and when the
 * slots run out, the handle locks LEASE_ALL_BYTE of `lock` shared instead: a pin of generation 0.
 *
 * ASKING. The header's first word is 0, or, of a handle that watches for the collector's question
 * (a change of times of `lock`), the time of its last answer, CLOCK_MONOTONIC ns. Nothing depends
 * on an answer but how soon garbage goes.
 *
 * ORDER. Who takes a lease writes the slot, then looks (again) whether what it leases is still
 * there: a pin rereads the generation, a root its name. The collector commits what it takes away,
 * then reads the slots. So one of the two sees the other. A slot caught half written is one whose
 * owner has yet to look again.
 *
 * Any thread.
 */
#ifndef SMFS_STORE_LEASE_H
#define SMFS_STORE_LEASE_H

#include "smfs/store/store_priv.h"

struct leases;

#define LEASE_PREFIX   "lease."
#define LEASE_ALL_BYTE ((int64_t)1 << 62)   /* of the file `lock`; process bytes end far below */
#define LEASE_GC_BYTE  (LEASE_ALL_BYTE + 1) /* write: a collection; read: a check of the store */
#define LEASE_NONE     0u

int leases_open(struct smfs_store *s, struct err *err);
void leases_close(struct smfs_store *s);

/* Pins what is there from now on; *gen is the index's generation. */
int lease_pin(struct smfs_store *s, uint32_t *slot, uint64_t *gen, struct err *err);
/* The caller checks afterwards that the root was still protected otherwise. */
int lease_root(struct smfs_store *s, const struct smfs_id *root, uint32_t *slot, struct err *err);
/* LEASE_NONE is fine. */
void lease_drop(struct smfs_store *s, uint32_t slot);

/* The pin of the handle itself. */
int lease_pin_handle(struct smfs_store *s, struct err *err);
void lease_unpin_handle(struct smfs_store *s);

/* ---- the collector's side ---- */

struct lease_view {
	struct smfs_id *roots;
	size_t nroots, cap;
	uint64_t min_pin; /* UINT64_MAX: nothing is pinned */
	size_t holders;	  /* handles that hold any */
	uint64_t
		first_answer; /* of the watchers' last answers the oldest; UINT64_MAX: no watcher */
};
/* All that is leased now, by all processes. Free with lease_view_free(). */
int lease_view_read(struct smfs_store *s, struct lease_view *v, struct err *err);
void lease_view_free(struct lease_view *v);
/* Ask the watchers (smfs_lease_watch()) to let go; returns when all have, or after a second. */
int lease_ask(struct smfs_store *s, struct err *err);

/*
 * A descriptor that holds LEASE_GC_BYTE until it is closed: exclusively for a collection (-EBUSY
 * when there is another, or a check), shared to keep collections away (waits for one at work).
 */
int lease_gc_lock(struct smfs_store *s, bool exclusive, struct err *err);

#endif
