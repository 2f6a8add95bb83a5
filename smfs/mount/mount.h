/*
 * mount.h - serve a store, or one directory tree of it, as a file system in this process.
 *
 * Two callers: `smfs mount` serves the whole store (snapshots/, images/, layers/, .smfs/) and
 * lets snapshots be copied in, renamed and removed; smvm-pull serves one directory tree, private
 * and read-only, and runs mkfs.erofs over it.
 *
 * THREADS. Requests are answered by threads of the mount's own, with all signals blocked. The
 * calls below may come from any thread of the caller, but one at a time per mount, and must not
 * be made from a process forked after the start.
 *
 * OWNERSHIP. The store is borrowed and must stay open until smfs_mount_stop() has returned. The
 * caller must never read its own mount from a thread that holds something the server needs (the
 * server itself never touches the mount).
 *
 * Needs root (CAP_SYS_ADMIN and /dev/fuse).
 */
#ifndef SMFS_MOUNT_MOUNT_H
#define SMFS_MOUNT_MOUNT_H

#include "smfs/store/store.h"

#ifdef __cplusplus
extern "C" {
#endif

struct smfs_mount;

#define SMFS_MOUNT_RDONLY 1u /* nothing can be copied in, renamed or removed */
/*
 * Which large files are materialised, for the kernel to serve them by itself: hot.h. Neither: as
 * they turn out to be worth it.
 */
#define SMFS_MOUNT_ALWAYS_HOT 2u
#define SMFS_MOUNT_NEVER_HOT  4u

/*
 * Mount the whole store on the existing, empty directory `dir`. On return 0 the mount answers.
 * EBUSY: something is mounted there already. ENOTCONN: a dead mount is in the way. EPERM: not root.
 */
SMFS_API int smfs_mount_store(struct smfs_store *s, const char *dir, unsigned flags,
			      struct smfs_mount **out, struct err *err);

/*
 * Mount the directory object `root` as the root of a read-only file system on `dir`: no names, no
 * .smfs. `attr` gives mode, owner and mtime of the root directory (NULL: 0755 root, the store's
 * creation time). Objects of a committed ingest can be served, named or not.
 */
SMFS_API int smfs_mount_tree(struct smfs_store *s, const struct smfs_id *root,
			     const struct smfs_entry *attr, const char *dir,
			     struct smfs_mount **out, struct err *err);

/*
 * A descriptor that polls readable once the mount has ended, whoever unmounted it. Owned by the
 * mount; smfs_mount_stop() is still to be called.
 */
SMFS_API int smfs_mount_fd(const struct smfs_mount *m);

/*
 * Detach from the name space without disturbing those who have files open: they are served until
 * they close them, and then smfs_mount_fd() polls readable.
 */
SMFS_API int smfs_mount_detach(struct smfs_mount *m, struct err *err);

/*
 * Unmount, stop the threads, free `m`. Whoever still uses the mount gets ENOTCONN (SIGBUS in a
 * mapping); after smfs_mount_detach(), though, they are waited for. Always succeeds; a no-op for
 * NULL.
 */
SMFS_API void smfs_mount_stop(struct smfs_mount *m);

/* ---- one process after another: see keeper.h ------------------------------------------------- */

/* What outlives a process that serves. */
struct mount_line {
	const int *dev; /* CHANNEL_THREADS devices */
	int table;	/* of takeover_create() */
};

/* smfs_mount_store(), so that another process can go on. */
int mount_first(struct smfs_store *s, const char *dir, unsigned flags,
		const struct mount_line *line, struct smfs_mount **out, struct err *err);
/*
 * Get ready to go on with a mount another process serves or served, the store being the same.
 * Nothing changes yet. EPROTO: this program cannot.
 */
int mount_prepare(struct smfs_store *s, const struct mount_line *line, struct smfs_mount **out,
		  struct err *err);
/* Serve: the other process has ended, whether it is done or dead. */
int mount_go(struct smfs_mount *m, struct err *err);
/*
 * Answer what was taken and take nothing more: another process is to go on, and this one to
 * exit, without smfs_mount_stop(). EBUSY: a snapshot is being copied in; serving as before.
 */
int mount_drain(struct smfs_mount *m, struct err *err);
#ifdef __cplusplus
}
#endif

#endif
