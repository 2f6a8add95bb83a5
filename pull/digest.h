/*
 * digest.h - content digests as OCI writes them: "sha256:<64 lower-case hex>".
 *
 * SHA-256 only: what a registry names by another algorithm is refused, never trusted unverified.
 */
#ifndef PULL_DIGEST_H
#define PULL_DIGEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "smfs/base/sha256.h"

struct err;

#define DIGEST_STR_MAX 72 /* "sha256:" + 64 + NUL */

struct digest {
	uint8_t b[SHA256_LEN];
};

/* -EINVAL, naming the text, on anything else than exactly one digest. */
int digest_parse(const char *text, struct digest *out, struct err *err);
/* "sha256:<hex>" into `out` (DIGEST_STR_MAX bytes); returns out. */
char *digest_format(const struct digest *d, char *out);
void digest_of(const void *data, size_t len, struct digest *out);

static inline bool digest_equal(const struct digest *a, const struct digest *b)
{
	return memcmp(a->b, b->b, sizeof(a->b)) == 0;
}

#endif
