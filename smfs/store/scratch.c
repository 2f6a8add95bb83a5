#include "smfs/store/scratch.h"

#include "smfs/base/num.h"

#include <errno.h>
#include <stdlib.h>

/*
 * Between zstd's levels 1 and 3 in speed, and smaller than both on 64 KiB of guest RAM
 * (doc/store-format.md): two hash tables that stay in a core's first two caches, matches from four
 * bytes.
 */
#define ZSTD_LEVEL     3
#define ZSTD_HASH_LOG  15
#define ZSTD_CHAIN_LOG 15
#define ZSTD_MIN_MATCH 4
/* A buffer above this is not kept for the next user. */
#define KEEP_MAX (4 * MIB)

void scratch_pool_init(struct scratch_pool *p)
{
	pthread_mutex_init(&p->lock, NULL);
	p->free = NULL;
}

static void scratch_free(struct scratch *s)
{
	ZSTD_freeCCtx(s->cctx);
	ZSTD_freeDCtx(s->dctx);
	free(s->buf);
	free(s);
}

void scratch_pool_fini(struct scratch_pool *p)
{
	struct scratch *s;

	while ((s = p->free)) {
		p->free = s->next;
		scratch_free(s);
	}
	pthread_mutex_destroy(&p->lock);
}

struct scratch *scratch_get(struct scratch_pool *p)
{
	pthread_mutex_lock(&p->lock);
	struct scratch *s = p->free;
	if (s)
		p->free = s->next;
	pthread_mutex_unlock(&p->lock);
	return s ? s : calloc(1, sizeof(*s));
}

void scratch_put(struct scratch_pool *p, struct scratch *s)
{
	if (!s)
		return;
	if (s->cap > KEEP_MAX) {
		free(s->buf);
		s->buf = NULL;
		s->cap = 0;
	}
	pthread_mutex_lock(&p->lock);
	s->next = p->free;
	p->free = s;
	pthread_mutex_unlock(&p->lock);
}

uint8_t *scratch_buf(struct scratch *s, size_t n)
{
	if (s->cap >= n)
		return s->buf;
	free(s->buf);
	s->cap = 0;
	s->buf = malloc(n);
	if (s->buf)
		s->cap = n;
	return s->buf;
}

size_t scratch_compress(struct scratch *s, const void *raw, size_t len)
{
	size_t room = len - len / 20;

	if (len < 64)
		return 0;
	if (!s->cctx) {
		s->cctx = ZSTD_createCCtx();
		if (!s->cctx)
			return 0;
		/* The frame header holds id, lengths and checksum; zstd need not repeat them. */
		ZSTD_CCtx_setParameter(s->cctx, ZSTD_c_compressionLevel, ZSTD_LEVEL);
		ZSTD_CCtx_setParameter(s->cctx, ZSTD_c_checksumFlag, 0);
		ZSTD_CCtx_setParameter(s->cctx, ZSTD_c_strategy, ZSTD_dfast);
		ZSTD_CCtx_setParameter(s->cctx, ZSTD_c_hashLog, ZSTD_HASH_LOG);
		ZSTD_CCtx_setParameter(s->cctx, ZSTD_c_chainLog, ZSTD_CHAIN_LOG);
		ZSTD_CCtx_setParameter(s->cctx, ZSTD_c_minMatch, ZSTD_MIN_MATCH);
	}
	if (!scratch_buf(s, ZSTD_compressBound(len)))
		return 0;
	size_t n = ZSTD_compress2(s->cctx, s->buf, s->cap, raw, len);
	return ZSTD_isError(n) || n > room || n >= len ? 0 : n;
}

int scratch_decompress(struct scratch *s, const void *in, size_t len, void *raw, size_t raw_len)
{
	if (!s->dctx && !(s->dctx = ZSTD_createDCtx()))
		return -ENOMEM;
	size_t n = ZSTD_decompressDCtx(s->dctx, raw, raw_len, in, len);
	return !ZSTD_isError(n) && n == raw_len ? 0 : -EBADMSG;
}
