/*
 * scratch.h - a pool of (zstd contexts, buffer), so that a frame is compressed or decompressed
 * without allocating. One scratch belongs to one thread between get and put; the pool is the
 * store's and any thread may use it. Contexts and buffer come into being on first use.
 */
#ifndef SMFS_STORE_SCRATCH_H
#define SMFS_STORE_SCRATCH_H

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <zstd.h>

struct scratch {
	struct scratch *next;
	ZSTD_CCtx *cctx;
	ZSTD_DCtx *dctx;
	uint8_t *buf;
	size_t cap;
};

struct scratch_pool {
	pthread_mutex_t lock;
	struct scratch *free;
};

void scratch_pool_init(struct scratch_pool *p);
void scratch_pool_fini(struct scratch_pool *p);

/* NULL: out of memory. */
struct scratch *scratch_get(struct scratch_pool *p);
void scratch_put(struct scratch_pool *p, struct scratch *s);

/* At least `n` bytes; NULL: out of memory. What was there is lost when it grows. */
uint8_t *scratch_buf(struct scratch *s, size_t n);

/*
 * Compress into the scratch's buffer: the compressed length, or 0 when that would not save a
 * twentieth (or memory is short): store the bytes as they are.
 */
size_t scratch_compress(struct scratch *s, const void *raw, size_t len);
/* 0 when exactly `raw_len` bytes came out, else -EBADMSG (-ENOMEM). */
int scratch_decompress(struct scratch *s, const void *in, size_t len, void *raw, size_t raw_len);

#endif
