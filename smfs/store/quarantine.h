/*
 * quarantine.h - frames that were found damaged, so that the same content heals them.
 *
 * Who reads a frame and finds it bad notes its place here. An ingest that meets content whose frame
 * is noted takes it for absent, writes it, and its commit points the index to the new copy: every
 * name that refers to it is whole again. A check reports what is noted without reading it.
 *
 * A note is of a *place* (id, pack, offset): once the index points elsewhere it says nothing, so
 * nothing goes wrong if it stays. The file `quarantine` is records of 64 bytes, each with its own
 * sum, appended by any process in one write, also beside a read-only handle; a torn one is passed
 * over. It is not synced: what is lost is found again by who reads the frame next. smfs_fsck()
 * drops the notes that say nothing any more.
 *
 * Any thread.
 */
#ifndef SMFS_STORE_QUARANTINE_H
#define SMFS_STORE_QUARANTINE_H

#include "smfs/store/store_priv.h"

struct quarantine;

int quarantine_open(struct smfs_store *s, struct err *err);
void quarantine_close(struct smfs_store *s);
/* What other processes noted meanwhile. */
void quarantine_reload(struct smfs_store *s);

/* The frame at `loc` cannot be read: noted, if the index still says it is there. */
void quarantine_note(struct smfs_store *s, const struct smfs_id *id, const struct frame_loc *loc);
bool quarantine_has(struct smfs_store *s, const struct smfs_id *id, const struct frame_loc *loc);
/* Is a frame noted that the index has in this pack? */
bool quarantine_keeps(struct smfs_store *s, uint64_t pack);
/* The place noted for the frame: true, with *loc's pack and off. */
bool quarantine_place(struct smfs_store *s, uint8_t kind, const struct smfs_id *id,
		      struct frame_loc *loc);
/* It was read, and is good. Takes effect with the next quarantine_prune(). */
void quarantine_forget(struct smfs_store *s, const struct smfs_id *id, const struct frame_loc *loc);
/* Keep only notes of places the index points to. Best effort. */
void quarantine_prune(struct smfs_store *s);
/* After a commit that pointed the index to new copies of so many noted frames. */
void quarantine_healed(struct smfs_store *s, size_t n);
/* How many are noted, and how many this handle has healed. */
size_t quarantine_count(struct smfs_store *s);
uint64_t quarantine_heals(struct smfs_store *s);

#endif
