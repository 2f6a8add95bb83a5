/*
 * pack.h - pack files, for reading: open descriptors by pack id, and one frame at a place.
 *
 * A pack is a header and frames, appended and never changed (format.h), until the collector has
 * moved what lives in it elsewhere and cuts it off. Descriptors are kept open, a bounded number of
 * them. Any thread.
 */
#ifndef SMFS_STORE_PACK_H
#define SMFS_STORE_PACK_H

#include "smfs/store/format.h"
#include "smfs/store/index.h"

struct packs;
struct pack_ref;

#define PACK_NAME_LEN 24 /* "<16 hex>.pack" and a NUL, rounded */

/* Takes over `dirfd`, the packs directory. */
int packs_new(int dirfd, const uint8_t uuid[UUID_LEN], struct packs **out, struct err *err);
void packs_free(struct packs *p);
int packs_dirfd(const struct packs *p);

char *pack_name(uint64_t id, char out[PACK_NAME_LEN]);
/* The id of a pack's file name, false if it is not one. */
bool pack_name_parse(const char *name, uint64_t *id);

/* The open pack, whose header was checked. Close it with pack_unref(). */
int pack_ref(struct packs *p, uint64_t id, struct pack_ref **out, struct err *err);
void pack_unref(struct packs *p, struct pack_ref *r);
/* Close the descriptor kept for a pack that is no more, as soon as nobody uses it. */
void packs_forget(struct packs *p, uint64_t id);
int pack_fd(const struct pack_ref *r);

/*
 * Read the frame at `loc` into `buf` of frame_disk_len() bytes and prove that it is the frame of
 * `id` that the index speaks of: header, payload checksum, padding. The payload starts at buf +
 * FRAME_HEAD_LEN.
 */
int pack_read_frame(struct packs *p, const struct frame_loc *loc, const struct smfs_id *id,
		    uint8_t *buf, struct err *err);

#endif
