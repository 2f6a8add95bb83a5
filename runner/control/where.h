/*
 * where.h - from what the user typed to paths in the mount.
 *
 * The mount is --mount, else $SMFS_MOUNT, else /mnt/smfs; the store behind it is what the mount
 * says in .smfs/store ($SMFS_STORE overrides). Nothing here needs the store itself.
 */
#ifndef RUNNER_CONTROL_WHERE_H
#define RUNNER_CONTROL_WHERE_H

#include <limits.h>

#include "smfs/base/err.h"

/* The mount to use; `flag` is the option's value or NULL. */
const char *where_mount(const char *flag);

/* The store behind `mount`. ENOENT with what to do when nothing is mounted there. */
int where_store(const char *mount, char out[PATH_MAX], struct err *err);

/*
 * An image: a directory's path, or a reference as pulled. "alpine" is tried as it stands, then as
 * Docker would complete it (docker.io/library/alpine:latest). `ref` gets the name below images/
 * ("" for a path elsewhere).
 */
int where_image(const char *mount, const char *what, char dir[PATH_MAX], char ref[512],
		struct err *err);

/* A snapshot: a directory's path (anything with a '/'), or a name below <mount>/snapshots. */
int where_snapshot(const char *mount, const char *what, char dir[PATH_MAX], struct err *err);

#endif
