/*
 * source.h - where an image comes from: a registry or an OCI layout, behind one interface.
 *
 * A source answers manifests by tag or digest and opens blobs at an offset. It need not be trusted:
 * struct blob verifies size and SHA-256 of everything it hands out, resumes a broken transfer where
 * it stopped, and says at its end whether the bytes were the right ones. Nothing read before
 * that end may be published.
 *
 * A source is shared by threads; a byte_stream and a struct blob belong to one.
 */
#ifndef PULL_SOURCE_H
#define PULL_SOURCE_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "pull/cancel.h"
#include "pull/manifest.h"

struct ref;
struct source;

struct byte_stream {
	/* The count, 0 at the end, or a negative errno; -EAGAIN: broken off, may be opened again.
	 */
	ssize_t (*read)(struct byte_stream *b, void *buf, size_t len, struct err *err);
	void (*close)(struct byte_stream *b);
};

struct document {
	char *body; /* NUL-terminated besides `len` */
	size_t len;
	char media_type[MEDIA_TYPE_MAX]; /* as the source told, "" when it did not */
	struct digest digest;		 /* of the body */
};

void document_free(struct document *d);

struct source_ops {
	/* A manifest by digest (verified) when `want` is set, else by the reference the source was
	 * opened for. */
	int (*manifest)(struct source *s, const struct descriptor *want, struct document *out,
			struct err *err);
	/*
	 * What the reference points to now, without fetching it; -ENOTSUP (without a message) when
	 * the source cannot tell.
	 */
	int (*resolve)(struct source *s, struct digest *out, struct err *err);
	int (*open_blob)(struct source *s, const struct descriptor *d, uint64_t offset,
			 struct byte_stream **out, struct err *err);
	void (*close)(struct source *s);
};

struct source {
	const struct source_ops *ops;
	struct cancel *cancel;
};

/* ---- blobs -------------------------------------------------------------------------------- */

struct blob;

/* `progress` (may be NULL) is added the bytes read, once each. */
int blob_open(struct source *s, const struct descriptor *d, _Atomic uint64_t *progress,
	      struct blob **out, struct err *err);
/* The count; 0 = the end, and the blob was what its descriptor says. */
ssize_t blob_read(struct blob *b, void *buf, size_t len, struct err *err);
/*
 * After what was read made no sense: whether the blob is wrong (-EBADMSG) rather than its
 * publisher. Reads on at most `max` bytes for it; 0 when it is right or too long to tell.
 */
int blob_check_rest(struct blob *b, uint64_t max, struct err *err);
void blob_close(struct blob *b);

/* A whole small blob, verified. */
int blob_load(struct source *s, const struct descriptor *d, size_t max, struct document *out,
	      struct err *err);

/* A manifest's body against what was asked for. */
int document_check(const struct document *d, const struct descriptor *want, struct err *err);

#endif
