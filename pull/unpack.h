/*
 * unpack.h - a layer's uncompressed stream: decompressed, hashed for its diff_id, bounded.
 *
 * libarchive's own filters hide the uncompressed stream, of which the diff_id is the hash; so gzip
 * and zstd are undone here and libarchive sees plain tar. The compression must be the one the media
 * type says. One thread.
 */
#ifndef PULL_UNPACK_H
#define PULL_UNPACK_H

#include <stdint.h>
#include <sys/types.h>

#include "pull/manifest.h"

struct blob;
struct unpack;

/* More than this from one compressed byte is a bomb, once UNPACK_FREE bytes have come. gzip reaches
 * 1,032. */
#define UNPACK_RATIO 1100u
#define UNPACK_FREE  (256u << 20)

/* The blob is borrowed. At most `max` bytes will come out. */
int unpack_open(struct blob *in, enum layer_compression c, uint64_t max, struct unpack **out,
		struct err *err);
/* The next piece, in memory of `u` until the next call: its length, 0 at the end. */
ssize_t unpack_read(struct unpack *u, const void **piece, struct err *err);
/* Read to the end, so that blob and stream are verified: -EBADMSG unless the stream hashes to
 * `diff_id`. */
int unpack_finish(struct unpack *u, const struct digest *diff_id, struct err *err);
void unpack_close(struct unpack *u);

#endif
