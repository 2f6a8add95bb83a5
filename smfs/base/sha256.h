/*
 * sha256.h - streaming and one-shot SHA-256 over OpenSSL's EVP.
 *
 * The algorithm is fetched once per process (a fetch costs more than hashing a small frame).
 * A struct sha256 belongs to one thread. Failure of the library is ENOMEM in practice.
 */
#ifndef SMFS_BASE_SHA256_H
#define SMFS_BASE_SHA256_H

#include <stddef.h>
#include <stdint.h>

#define SHA256_LEN 32

struct sha256; /* opaque; sha256_new() .. sha256_free() */

struct sha256 *sha256_new(void);
void sha256_free(struct sha256 *h);
int sha256_reset(struct sha256 *h);
int sha256_update(struct sha256 *h, const void *p, size_t n);
int sha256_final(struct sha256 *h, uint8_t out[SHA256_LEN]);

/* One shot, reusing a per-thread context. 0 or -ENOMEM. */
int sha256(const void *p, size_t n, uint8_t out[SHA256_LEN]);

#endif
