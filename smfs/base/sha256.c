#include "smfs/base/sha256.h"

#include <errno.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <stdlib.h>

struct sha256 {
	EVP_MD_CTX *ctx;
};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static const EVP_MD *md;
static pthread_key_t tls;

static void tls_free(void *p)
{
	sha256_free(p);
}

static void init(void)
{
	md = EVP_MD_fetch(NULL, "SHA256", NULL);
	if (!md)
		md = EVP_sha256();
	pthread_key_create(&tls, tls_free);
}

struct sha256 *sha256_new(void)
{
	pthread_once(&once, init);
	struct sha256 *h = calloc(1, sizeof(*h));
	if (!h)
		return NULL;
	h->ctx = EVP_MD_CTX_new();
	if (!h->ctx || sha256_reset(h) < 0) {
		sha256_free(h);
		return NULL;
	}
	return h;
}

void sha256_free(struct sha256 *h)
{
	if (!h)
		return;
	EVP_MD_CTX_free(h->ctx);
	free(h);
}

int sha256_reset(struct sha256 *h)
{
	return EVP_DigestInit_ex(h->ctx, md, NULL) == 1 ? 0 : -ENOMEM;
}

int sha256_update(struct sha256 *h, const void *p, size_t n)
{
	return EVP_DigestUpdate(h->ctx, p, n) == 1 ? 0 : -ENOMEM;
}

int sha256_final(struct sha256 *h, uint8_t out[SHA256_LEN])
{
	return EVP_DigestFinal_ex(h->ctx, out, NULL) == 1 ? 0 : -ENOMEM;
}

int sha256(const void *p, size_t n, uint8_t out[SHA256_LEN])
{
	pthread_once(&once, init);
	struct sha256 *h = pthread_getspecific(tls);
	if (!h) {
		h = sha256_new();
		if (!h)
			return -ENOMEM;
		pthread_setspecific(tls, h);
	}
	int r = sha256_reset(h);
	if (r == 0)
		r = sha256_update(h, p, n);
	if (r == 0)
		r = sha256_final(h, out);
	return r;
}
