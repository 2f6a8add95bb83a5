/*
 * layer.h - one layer's tar archive into a tree, its files straight into the ingest.
 *
 * Everything in the archive is hostile: names are cleaned and stay inside the tree, counts, depths
 * and sizes are bounded, and what has no meaning in a layer is refused rather than guessed. File
 * contents never touch the host's file system.
 */
#ifndef PULL_LAYER_H
#define PULL_LAYER_H

#include <stdatomic.h>
#include <stdint.h>

#include "smfs/store/store.h"

struct tree;
struct unpack;

/*
 * Read the archive to the end of the tar (not of the stream: unpack_finish() does that).
 * File sizes, holes included, are taken from `budget`, which the layers of an image share. On
 * success *out is the caller's.
 */
int layer_read(struct smfs_ingest *ing, struct unpack *in, _Atomic uint64_t *budget,
	       struct tree **out, struct err *err);

#endif
