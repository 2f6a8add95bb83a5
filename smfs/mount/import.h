/*
 * import.h - files become a snapshot. Used by the mount (cp -r) and by `smfs import`.
 */
#ifndef SMFS_MOUNT_IMPORT_H
#define SMFS_MOUNT_IMPORT_H

#include <stdbool.h>

#include "smfs/store/store.h"

struct snapshot_source {
	const char *name; /* in the snapshot's directory */
	int fd;		  /* readable and seekable; its holes are kept */
	/* Store it as a diff of this content (store.h); NULL: as it is. */
	const struct smfs_content *base;
};

/*
 * Check the files, store them in `ing`, and stage snapshot `name`: the caller commits. `root` (may
 * be NULL) is given its directory. There must
 * be a `meta`, a `ram` and a `vcpu`; `meta` must be a JSON object, and the sizes it gives for the
 * others must be theirs, so that a copy cut short is refused instead of published.
 */
#define SNAPSHOT_FILES_MAX 16

/*
 * Every file that `meta` says is beside it is there, as far as has(arg, name) tells: the working
 * set, writable disks' content. True, too, of what is no meta.
 */
bool snapshot_is_whole(int meta_fd, bool (*has)(const void *arg, const char *name),
		       const void *arg);

int snapshot_stage(struct smfs_ingest *ing, const char *name, const struct snapshot_source *src,
		   size_t n, struct smfs_id *root, struct err *err);

#endif
