/*
 * letgo.h - names that are gone, and a kernel that still remembers them.
 *
 * The kernel keeps what was looked at under a name that another process has removed since, and
 * with it our inode and the lease of all below (names.c), though nobody uses it. A collection
 * asks all mounts (smfs_lease_watch()); each then tells its kernel to forget the names that are
 * gone. What is open, mapped or otherwise in use stays, and stays leased.
 *
 * A thread of its own, as the kernel may call back while it is told. Start and stop: one thread.
 */
#ifndef SMFS_MOUNT_LETGO_H
#define SMFS_MOUNT_LETGO_H

#include "smfs/base/err.h"

struct smfs_mount;
struct letgo;

int letgo_start(struct smfs_mount *m, struct err *err);
/* No more notifications after this. NULL (m->letgo) is fine. */
void letgo_stop(struct smfs_mount *m);

#endif
