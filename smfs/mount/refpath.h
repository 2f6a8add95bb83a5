/*
 * refpath.h - names with slashes as paths: images/<registry>/<repository>:<tag>.
 *
 * Pure text. A name is a full reference; a prefix is what stands before one of its slashes. The
 * directories between images/ and an image exist exactly as long as a name needs them.
 */
#ifndef SMFS_MOUNT_REFPATH_H
#define SMFS_MOUNT_REFPATH_H

#include <stdbool.h>
#include <stddef.h>

#include "smfs/store/store.h"

/* prefix + "/" + component into `out` (an empty prefix gives the component); false if too long. */
bool ref_join(const char *prefix, const char *component, char out[SMFS_REF_MAX + 1]);

/*
 * The component of `name` that follows `prefix` into `out`, and in *leaf whether it is the last.
 * false if `name` is not below `prefix`, or is malformed (an empty component).
 */
bool ref_child(const char *prefix, const char *name, char out[SMFS_NAME_MAX + 1], bool *leaf);

/*
 * A string that sorts after every name below the directory prefix/component and before any other
 * sibling: where to continue a sorted listing. false if too long.
 */
bool ref_skip(const char *prefix, const char *component, char out[SMFS_REF_MAX + 1]);

#endif
