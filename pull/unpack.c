#include "pull/unpack.h"

#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#include "pull/source.h"
#include "smfs/base/err.h"
#include "smfs/base/num.h"
#include "smfs/base/sha256.h"

#define PIECE (256u << 10)
/* 128 MiB, what zstd itself needs no option for. */
#define ZSTD_WINDOW_LOG 27

struct unpack {
	struct blob *in;
	enum layer_compression compression;
	struct sha256 hash;
	uint64_t max, in_total, out_total;
	z_stream gz;
	bool gz_ready, gz_between; /* between members: the end may come, or another */
	ZSTD_DStream *zstd;
	bool zstd_mid; /* inside a frame */
	bool in_end, done;
	size_t in_pos, in_len;
	uint8_t input[PIECE], output[PIECE];
};

int unpack_open(struct blob *in, enum layer_compression c, uint64_t max, struct unpack **out,
		struct err *err)
{
	struct unpack *u = calloc(1, sizeof(*u));

	if (!u)
		return err_set(err, ENOMEM, "unpack: out of memory");
	u->in = in;
	u->compression = c;
	u->max = max;
	sha256_init(&u->hash);
	if (c == LAYER_GZIP) {
		u->gz_ready = inflateInit2(&u->gz, 16 + MAX_WBITS) == Z_OK;
	} else if (c == LAYER_ZSTD) {
		u->zstd = ZSTD_createDStream();
		if (u->zstd)
			ZSTD_DCtx_setParameter(u->zstd, ZSTD_d_windowLogMax, ZSTD_WINDOW_LOG);
	}
	if ((c == LAYER_GZIP && !u->gz_ready) || (c == LAYER_ZSTD && !u->zstd)) {
		unpack_close(u);
		return err_set(err, ENOMEM, "unpack: out of memory");
	}
	*out = u;
	return 0;
}

void unpack_close(struct unpack *u)
{
	if (!u)
		return;
	if (u->gz_ready)
		inflateEnd(&u->gz);
	ZSTD_freeDStream(u->zstd);
	free(u);
}

static int fill(struct unpack *u, struct err *err)
{
	ssize_t n;

	if (u->in_pos < u->in_len || u->in_end)
		return 0;
	n = blob_read(u->in, u->input, sizeof(u->input), err);
	if (n < 0)
		return (int)n;
	u->in_pos = 0;
	u->in_len = n;
	u->in_total += n;
	u->in_end = n == 0;
	return 0;
}

/* Each returns the bytes put out (perhaps 0: call again), or sets `done`. */
static ssize_t gunzip(struct unpack *u, struct err *err)
{
	bool ended = u->in_pos == u->in_len;
	int z;

	if (ended && u->gz_between) {
		u->done = true;
		return 0;
	}
	if (u->gz_between && inflateReset(&u->gz) != Z_OK)
		return err_set(err, ENOMEM, "gzip: out of memory");
	u->gz_between = false;
	u->gz.next_in = u->input + u->in_pos;
	u->gz.avail_in = u->in_len - u->in_pos;
	u->gz.next_out = u->output;
	u->gz.avail_out = sizeof(u->output);
	z = inflate(&u->gz, Z_NO_FLUSH);
	u->in_pos = u->in_len - u->gz.avail_in;
	if (z == Z_STREAM_END)
		u->gz_between = true;
	else if (z != Z_OK && z != Z_BUF_ERROR)
		return err_set(err, EBADMSG, "not valid gzip: %s",
			       u->gz.msg ? u->gz.msg : "bad data");
	else if (ended && u->gz.avail_out == sizeof(u->output))
		return err_set(err, EBADMSG, "gzip stream ends in the middle");
	return sizeof(u->output) - u->gz.avail_out;
}

static ssize_t unzstd(struct unpack *u, struct err *err)
{
	ZSTD_inBuffer in = {.src = u->input, .size = u->in_len, .pos = u->in_pos};
	ZSTD_outBuffer out = {.dst = u->output, .size = sizeof(u->output)};
	bool ended = u->in_pos == u->in_len;
	size_t z;

	if (ended && !u->zstd_mid) {
		u->done = true;
		return 0;
	}
	z = ZSTD_decompressStream(u->zstd, &out, &in);
	if (ZSTD_isError(z))
		return err_set(err, EBADMSG, "not valid zstd: %s", ZSTD_getErrorName(z));
	if (ended && out.pos == 0)
		return err_set(err, EBADMSG, "zstd stream ends in the middle");
	u->in_pos = in.pos;
	u->zstd_mid = z != 0;
	return out.pos;
}

static ssize_t pass(struct unpack *u)
{
	size_t n = u->in_len - u->in_pos;

	if (n == 0)
		u->done = true;
	memcpy(u->output, u->input + u->in_pos, n);
	u->in_pos = u->in_len;
	return n;
}

ssize_t unpack_read(struct unpack *u, const void **piece, struct err *err)
{
	while (!u->done) {
		int r = fill(u, err);
		ssize_t n;

		if (r < 0)
			return r;
		n = u->compression == LAYER_GZIP   ? gunzip(u, err)
		    : u->compression == LAYER_ZSTD ? unzstd(u, err)
						   : pass(u);
		if (n < 0)
			return n;
		if (n == 0)
			continue;
		u->out_total += n;
		if (u->out_total > u->max)
			return err_set(err, EFBIG,
				       "unpacks to more than the %lu bytes allowed; raise "
				       "--max-size if that is right",
				       (unsigned long)u->max);
		if (u->out_total > UNPACK_FREE && u->out_total / UNPACK_RATIO > u->in_total)
			return err_set(
				err, EBADMSG,
				"unpacks to more than %u times its size: a decompression bomb",
				UNPACK_RATIO);
		sha256_update(&u->hash, u->output, n);
		*piece = u->output;
		return n;
	}
	return 0;
}

int unpack_finish(struct unpack *u, const struct digest *diff_id, struct err *err)
{
	char a[DIGEST_STR_MAX], b[DIGEST_STR_MAX];
	struct digest got;
	const void *piece;
	ssize_t n;

	while ((n = unpack_read(u, &piece, err)) > 0)
		;
	if (n < 0)
		return (int)n;
	sha256_final(&u->hash, got.b);
	if (!digest_equal(&got, diff_id))
		return err_set(err, EBADMSG, "unpacked layer has the digest %s, the config says %s",
			       digest_format(&got, a), digest_format(diff_id, b));
	return 0;
}
