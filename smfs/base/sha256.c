/* libcrypto calls its own low-level functions deprecated, in favour of the layer we pass by. */
#define OPENSSL_API_COMPAT 0x10100000L

#include "smfs/base/sha256.h"

_Static_assert(SHA256_LEN == SHA256_DIGEST_LENGTH, "one length");

/* The calls below return 1 always: there is nothing in them that can fail. */

void sha256_init(struct sha256 *h)
{
	SHA256_Init(&h->ctx);
}

void sha256_update(struct sha256 *h, const void *p, size_t n)
{
	SHA256_Update(&h->ctx, p, n);
}

void sha256_final(struct sha256 *h, uint8_t out[SHA256_LEN])
{
	SHA256_Final(out, &h->ctx);
}

void sha256(const void *p, size_t n, uint8_t out[SHA256_LEN])
{
	struct sha256 h;

	sha256_init(&h);
	sha256_update(&h, p, n);
	sha256_final(&h, out);
}
