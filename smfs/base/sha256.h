/*
 * sha256.h - streaming and one-shot SHA-256. Nothing here allocates or fails.
 *
 * The code is libcrypto's (SHA extensions, AVX2 where there are), called below its provider layer:
 * that would allocate a context per use, and drags half the library into a static program. A struct
 * sha256 belongs to one thread.
 */
#ifndef SMFS_BASE_SHA256_H
#define SMFS_BASE_SHA256_H

#include <openssl/sha.h>
#include <stddef.h>
#include <stdint.h>

#define SHA256_LEN 32

struct sha256 {
	SHA256_CTX ctx;
};

void sha256_init(struct sha256 *h);
void sha256_update(struct sha256 *h, const void *p, size_t n);
void sha256_final(struct sha256 *h, uint8_t out[SHA256_LEN]);

void sha256(const void *p, size_t n, uint8_t out[SHA256_LEN]);

/*
 * Any number of messages, each as by sha256(). Sixteen long ones of about one length take a
 * fraction of the time where the processor has AVX-512.
 */
struct sha256_msg {
	const void *p;
	size_t len;
	uint8_t *out; /* SHA256_LEN bytes */
};
void sha256_many(struct sha256_msg *m, size_t n);

#endif
