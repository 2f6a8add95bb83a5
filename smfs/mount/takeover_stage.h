/*
 * takeover_stage.h - snapshots that were being copied in when the server died.
 *
 * Their data is gone with it. Whoever was copying gets EIO, from the next write or the close, and
 * the log says which copy it was; the name is free again. One case is better: a server that had
 * published the copy and died before it could say so. The next one finds the name with the very
 * directory that was being published, and the close that waited returns success.
 */
#ifndef SMFS_MOUNT_TAKEOVER_STAGE_H
#define SMFS_MOUNT_TAKEOVER_STAGE_H

#include "smfs/mount/fs.h"

/* Find out which were published, log the others, and clear the record. */
void takeover_stages_lost(struct smfs_mount *m);
/* A file or directory of one, as the kernel still holds it. */
int takeover_stage_again(struct smfs_mount *m, const struct inode *i, struct inode **out,
			 struct err *err);

#endif
