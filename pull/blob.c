/* Verified, resuming reads of blobs. See source.h. */
#include <stdlib.h>
#include <string.h>

#include "pull/source.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/err.h"
#include "smfs/base/log.h"
#include "smfs/base/num.h"
#include "smfs/base/sha256.h"

/* Reopenings in a row that each brought less than PROGRESS_MIN: a server that drips is as good as
 * dead. */
#define STALLS_MAX   5
#define PROGRESS_MIN (64u << 10)
/* All reopenings of one blob. */
#define RESUMES_MAX 50

struct blob {
	struct source *source;
	struct descriptor d;
	_Atomic uint64_t *progress;
	struct byte_stream *stream; /* NULL = to be opened at `offset` */
	struct sha256 hash;
	uint64_t offset, opened_at;
	unsigned stalls, resumes;
	bool verified;
};

void document_free(struct document *d)
{
	free(d->body);
	d->body = NULL;
}

int document_check(const struct document *d, const struct descriptor *want, struct err *err)
{
	char a[DIGEST_STR_MAX], b[DIGEST_STR_MAX];

	if (d->len != want->size)
		return err_set(err, EBADMSG, "%s: %zu bytes received, %lu promised",
			       digest_format(&want->digest, a), d->len, (unsigned long)want->size);
	if (!digest_equal(&d->digest, &want->digest))
		return err_set(err, EBADMSG, "%s: content has the digest %s",
			       digest_format(&want->digest, a), digest_format(&d->digest, b));
	return 0;
}

int blob_open(struct source *s, const struct descriptor *d, _Atomic uint64_t *progress,
	      struct blob **out, struct err *err)
{
	struct blob *b = calloc(1, sizeof(*b));

	if (!b)
		return err_set(err, ENOMEM, "open blob: out of memory");
	sha256_init(&b->hash);
	b->source = s;
	b->d = *d;
	b->progress = progress;
	*out = b;
	return 0;
}

void blob_close(struct blob *b)
{
	if (!b)
		return;
	if (b->stream)
		b->stream->close(b->stream);
	free(b);
}

static int verify(struct blob *b, struct err *err)
{
	char want[DIGEST_STR_MAX], have[DIGEST_STR_MAX];
	struct digest got;

	sha256_final(&b->hash, got.b);
	if (!digest_equal(&got, &b->d.digest))
		return err_set(err, EBADMSG, "blob %s: content has the digest %s",
			       digest_format(&b->d.digest, want), digest_format(&got, have));
	b->verified = true;
	return 0;
}

/* A transfer broke off: go on at the same offset after a growing pause, a bounded number of times.
 */
static int resume(struct blob *b, struct err *err)
{
	if (b->stream)
		b->stream->close(b->stream);
	b->stream = NULL;
	if (b->offset - b->opened_at >= PROGRESS_MIN)
		b->stalls = 0;
	b->opened_at = b->offset;
	if (++b->stalls > STALLS_MAX || ++b->resumes > RESUMES_MAX)
		return -EIO;
	log_info("blob broke off at byte %lu, going on: %s", (unsigned long)b->offset,
		 err ? err->msg : "");
	return cancel_sleep(b->source->cancel, 50u << b->stalls, err);
}

ssize_t blob_read(struct blob *b, void *buf, size_t len, struct err *err)
{
	char name[DIGEST_STR_MAX];
	uint8_t extra;
	ssize_t n;
	int r;

	digest_format(&b->d.digest, name);
	if (b->verified)
		return 0;
	for (;;) {
		uint64_t left = b->d.size - b->offset;

		if (left == 0 && !b->stream)
			return verify(b, err); /* an empty blob, or resumed at its very end */
		if (!b->stream) {
			r = b->source->ops->open_blob(b->source, &b->d, b->offset, &b->stream, err);
			if (r < 0)
				return err_wrap(err, r, "blob %s", name);
		}
		/* At the end, one more byte would be one too many. */
		n = b->stream->read(b->stream, left ? buf : &extra,
				    left ? MIN((uint64_t)len, left) : 1, err);
		if (n == 0 && left) {
			err_set(err, EIO, "ended after %lu of %lu bytes", (unsigned long)b->offset,
				(unsigned long)b->d.size);
			n = -EAGAIN;
		}
		if (n == -EAGAIN && left == 0)
			n = 0; /* all bytes are here; that the connection broke after them is no
				  matter */
		if (n == -EAGAIN) {
			r = resume(b, err);
			if (r < 0)
				return err_wrap(err, r, "blob %s", name);
			continue;
		}
		if (n < 0)
			return err_wrap(err, (int)n, "blob %s", name);
		if (left == 0)
			return n ? err_set(err, EBADMSG,
					   "blob %s: longer than the %lu bytes promised", name,
					   (unsigned long)b->d.size)
				 : verify(b, err);
		sha256_update(&b->hash, buf, n);
		b->offset += n;
		if (b->progress)
			atomic_fetch_add_explicit(b->progress, n, memory_order_relaxed);
		return n;
	}
}

int blob_check_rest(struct blob *b, uint64_t max, struct err *err)
{
	uint8_t buf[16384];
	ssize_t n;

	if (b->d.size - b->offset > max)
		return 0;
	while ((n = blob_read(b, buf, sizeof(buf), err)) > 0)
		;
	return n < 0 ? (int)n : 0;
}

int blob_load(struct source *s, const struct descriptor *d, size_t max, struct document *out,
	      struct err *err)
{
	char name[DIGEST_STR_MAX];
	struct blob *b;
	ssize_t n = 0;
	int r;

	memset(out, 0, sizeof(*out));
	if (d->size > max)
		return err_set(err, EBADMSG,
			       "blob %s: %lu bytes are more than the %zu allowed here",
			       digest_format(&d->digest, name), (unsigned long)d->size, max);
	r = blob_open(s, d, NULL, &b, err);
	if (r < 0)
		return r;
	out->body = malloc(d->size + 1);
	if (!out->body)
		r = err_set(err, ENOMEM, "load blob: out of memory");
	while (r == 0 && (n = blob_read(b, out->body + out->len, d->size - out->len + 1, err)) > 0)
		out->len += n;
	blob_close(b);
	if (r < 0 || n < 0) {
		document_free(out);
		return r < 0 ? r : (int)n;
	}
	out->body[out->len] = '\0';
	out->digest = d->digest;
	return 0;
}
