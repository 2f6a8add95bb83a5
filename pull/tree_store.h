/*
 * tree_store.h - trees into the store and back.
 *
 * A merged tree becomes plain directories. A layer's tree (TREE_LAYER) keeps what merging needs,
 * in the way overlayfs writes it, so that a layer once in the store is never downloaded again:
 *   whiteout           character device 0:0 of that name
 *   opaque directory   xattr trusted.overlay.opaque = "y"
 *   implied directory  xattr trusted.smfs.implied = "y"
 *   link to a lower    symlink to its absolute path, xattr trusted.smfs.link = "y"
 * The root of a named tree keeps no xattrs: its two marks are character devices 0:0 of the names
 * TREE_ROOT_OPAQUE and TREE_ROOT_IMPLIED, which no archive entry can create.
 */
#ifndef PULL_TREE_STORE_H
#define PULL_TREE_STORE_H

#include <stdbool.h>

#include "smfs/store/store.h"

struct tree;

#define TREE_LAYER 1u

#define XATTR_OPAQUE	  "trusted.overlay.opaque"
#define XATTR_IMPLIED	  "trusted.smfs.implied"
#define XATTR_LINK	  "trusted.smfs.link"
#define TREE_ROOT_OPAQUE  ".wh..wh..opq"
#define TREE_ROOT_IMPLIED ".wh..wh.implied"

/*
 * `root` gets the root directory's own attributes (name NULL, xattrs pointing into the tree) with
 * its `dir` set.
 */
int tree_store(struct smfs_ingest *ing, struct tree *t, unsigned flags, struct smfs_entry *root,
	       struct err *err);

/* A layer by its name record. */
int tree_load_layer(struct smfs_store *s, const struct smfs_name *name, struct tree **out,
		    struct err *err);

#endif
