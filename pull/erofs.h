/*
 * erofs.h - the EROFS image of a directory tree in the store, for the guest's DAX-mapped rootfs.
 *
 * mkfs.erofs reads the tree through a FUSE mount that only this process and its child can see
 * (erofs_isolate()), and writes into a file without a name: nothing is left behind whenever this
 * process dies. The image depends on the tree only: fixed UUID, no clock.
 */
#ifndef PULL_EROFS_H
#define PULL_EROFS_H

#include <stdint.h>

#include "smfs/store/store.h"

struct cancel;

/* mkfs.erofs up to 1.5 cuts a name of 255 bytes short, and then does not find the file. */
#define EROFS_NAME_MAX 254

/* A mount name space of our own. Call once, before any thread starts. */
int erofs_isolate(struct err *err);

/* -ENOENT, and what to install, when mkfs.erofs is not in PATH. */
int erofs_available(struct err *err);

/*
 * `root` (committed) with its own attributes. `newest` is the youngest time in the tree, in
 * seconds. Returns the image as a descriptor the caller closes.
 */
int erofs_build(struct smfs_store *s, const struct smfs_entry *root, int64_t newest,
		struct cancel *cancel, struct err *err);

#endif
