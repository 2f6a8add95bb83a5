/*
 * dir.h - directory nodes: sorted entries, each with all of an inode's attributes.
 *
 * The encoding is canonical (names and extended attributes sorted, one way to say each thing), so
 * equal directories have equal ids. Strings carry their NUL, so that a decoded entry points
 * into the node's bytes. The head carries the bytes of the whole tree below, so that naming a tree
 * needs no walk. Layout: doc/store-format.md.
 */
#ifndef SMFS_STORE_DIR_H
#define SMFS_STORE_DIR_H

#include "smfs/store/ingest.h"
#include "smfs/store/object.h"

/* Takes over `raw` in every case. */
int dir_decode(uint8_t *raw, size_t len, struct smfs_dir **out, struct err *err);
/* The bytes of the tree, from the head of a directory node. */
int dir_logical(const uint8_t *raw, size_t len, uint64_t *logical, struct err *err);

#endif
