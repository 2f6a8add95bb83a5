#include "pull/registry.h"

#include <jansson.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pull/challenge.h"
#include "pull/credentials.h"
#include "pull/ref.h"
#include "pull/source.h"
#include "pull/text.h"
#include "pull/token.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/err.h"
#include "smfs/base/log.h"
#include "smfs/base/num.h"

#define POOL_MAX       16
#define ERROR_BODY_MAX (64u << 10)
/* On this machine a TLS handshake is answered at once or not at all. */
#define LOOPBACK_TIMEOUT 3u

struct registry {
	struct source source;
	struct ref ref;
	struct registry_options o;
	struct credentials creds;
	bool https;
	char base[REF_REGISTRY_MAX + 16]; /* "https://host:port" */

	pthread_mutex_t lock; /* what follows */
	char *authorization;
	unsigned generation; /* of authorization */
	struct http *pool[POOL_MAX];
	size_t pooled;
};

struct http_stream {
	struct byte_stream b;
	struct registry *reg;
	struct http *h;
};

/* ---- clients ------------------------------------------------------------------------------ */

static int borrow(struct registry *reg, struct http **out, struct err *err)
{
	*out = NULL;
	pthread_mutex_lock(&reg->lock);
	if (reg->pooled)
		*out = reg->pool[--reg->pooled];
	pthread_mutex_unlock(&reg->lock);
	return *out ? 0 : http_new(&reg->o.http, out, err);
}

static void give_back(struct registry *reg, struct http *h)
{
	pthread_mutex_lock(&reg->lock);
	if (reg->pooled < POOL_MAX)
		reg->pool[reg->pooled++] = steal_ptr(&h);
	pthread_mutex_unlock(&reg->lock);
	http_free(h);
}

/* ---- authorization ------------------------------------------------------------------------ */

static int copy_authorization(struct registry *reg, char **out, unsigned *generation,
			      struct err *err)
{
	bool some;

	pthread_mutex_lock(&reg->lock);
	some = reg->authorization != NULL;
	*out = some ? strdup(reg->authorization) : NULL;
	*generation = reg->generation;
	pthread_mutex_unlock(&reg->lock);
	return some && !*out ? err_set(err, ENOMEM, "out of memory") : 0;
}

/*
 * Answer a 401 given to authorization number `generation`: by what another thread got meanwhile,
 * or by asking. The lock is held while asking, so that one thread asks and the others wait for it.
 */
static int renew(struct registry *reg, struct http *h, const char *header, unsigned generation,
		 struct err *err)
{
	char scope[REF_REPOSITORY_MAX + 32], *value = NULL;
	struct challenge *c = malloc(sizeof(*c));
	int r = 0;

	if (!c)
		return err_set(err, ENOMEM, "out of memory");
	snprintf(scope, sizeof(scope), "repository:%s:pull", reg->ref.repository);
	pthread_mutex_lock(&reg->lock);
	if (reg->generation == generation) {
		r = challenge_parse(header, c, err);
		if (r == 0)
			r = token_obtain(h, c, &reg->creds, scope, reg->https, &value, err);
		if (r == 0) {
			free(reg->authorization);
			reg->authorization = value;
			reg->generation++;
		}
	}
	pthread_mutex_unlock(&reg->lock);
	free(c);
	return r;
}

/* Send, answering challenges: at most a stale token and a fresh one. */
static int send_request(struct registry *reg, struct http *h, struct http_request *rq,
			const struct http_response **rs, struct err *err)
{
	for (unsigned round = 0;; round++) {
		cleanup_free char *authorization = NULL;
		char header[HTTP_VALUE_MAX];
		unsigned generation;
		int r = copy_authorization(reg, &authorization, &generation, err);

		if (r == 0) {
			rq->authorization = authorization;
			r = http_open(h, rq, rs, err);
		}
		if (r < 0 || (*rs)->status != 401)
			return r;
		/* Whoever a redirect leads to must not learn our credentials by asking. */
		if ((*rs)->foreign)
			return err_set(
				err, EACCES,
				"%s: redirected to a server that asks for authentication: refused",
				reg->ref.registry);
		if (round == 2)
			return err_set(err, EACCES, "%s: %s", reg->ref.registry,
				       reg->creds.user || reg->creds.identity_token
					       ? "the credentials were refused"
					       : "authentication required; give credentials with "
						 "-u USER:PASSWORD or "
						 "`docker login`");
		text_copy(header, sizeof(header), (*rs)->authenticate);
		r = renew(reg, h, header, generation, err);
		if (r < 0)
			return err_wrap(err, r, "%s", reg->ref.registry);
	}
}

/* A final status that is no success, in words: the registry's own, where it has some. */
static int status_error(struct http *h, const struct http_response *rs, const char *what,
			struct err *err)
{
	long status = rs->status;
	cleanup_free char *body = NULL;
	const char *message = NULL;
	json_t *j = NULL;
	size_t len;
	int code = status == 404 ? ENOENT : status == 403 ? EACCES : EIO;

	if (http_read_all(h, ERROR_BODY_MAX, &body, &len, NULL) == 0 &&
	    (j = json_loadb(body, len, 0, NULL)))
		message = json_string_value(json_object_get(
			json_array_get(json_object_get(j, "errors"), 0), "message"));
	err_set(err, code, "%s: %s (HTTP status %ld)%s%.300s", what,
		status == 404	? "not found"
		: status == 403 ? "access denied"
				: "the registry refused",
		status, message ? ": " : "", message ? message : "");
	json_decref(j);
	return -code;
}

/* ---- manifests ---------------------------------------------------------------------------- */

static void manifest_url(const struct registry *reg, const struct descriptor *want, char *out,
			 size_t max)
{
	char digest[DIGEST_STR_MAX];
	const char *what = reg->ref.tag;

	if (want)
		what = digest_format(&want->digest, digest);
	else if (reg->ref.has_digest)
		what = digest_format(&reg->ref.digest, digest);
	snprintf(out, max, "%s/v2/%s/manifests/%s", reg->base, reg->ref.repository, what);
}

/* The body's digest against every promise about it. */
static int check_manifest(struct registry *reg, const struct descriptor *want,
			  const struct document *d, const char *header, struct err *err)
{
	char a[DIGEST_STR_MAX], b[DIGEST_STR_MAX];
	struct digest told;

	if (want)
		return document_check(d, want, err);
	if (reg->ref.has_digest && !digest_equal(&reg->ref.digest, &d->digest))
		return err_set(err, EBADMSG, "manifest %s: content has the digest %s",
			       digest_format(&reg->ref.digest, a), digest_format(&d->digest, b));
	if (*header && strncmp(header, "sha256:", 7) == 0 &&
	    digest_parse(header, &told, NULL) == 0 && !digest_equal(&told, &d->digest))
		return err_set(err, EBADMSG,
			       "manifest: the registry calls it %s, its content is %s",
			       digest_format(&told, a), digest_format(&d->digest, b));
	return 0;
}

static int registry_manifest(struct source *s, const struct descriptor *want, struct document *out,
			     struct err *err)
{
	struct registry *reg = (struct registry *)s;
	char url[1024], digest_header[HTTP_VALUE_MAX] = "";
	struct http_request rq = {.url = url, .accept = MANIFEST_ACCEPT};
	const struct http_response *rs;
	struct http *h;
	int r = borrow(reg, &h, err);

	memset(out, 0, sizeof(*out));
	if (r < 0)
		return r;
	manifest_url(reg, want, url, sizeof(url));
	/* A manifest is small: one that broke off is fetched again from its start. */
	for (unsigned n = 0; n < reg->o.http.attempts; n++) {
		r = send_request(reg, h, &rq, &rs, err);
		if (r < 0)
			break;
		if (rs->status != 200) {
			r = status_error(h, rs, url, err);
			break;
		}
		if (rs->content_length > MANIFEST_MAX) {
			r = err_set(err, EBADMSG, "%s: a manifest of %ld bytes is too large", url,
				    (long)rs->content_length);
			break;
		}
		text_copy(out->media_type, sizeof(out->media_type), rs->content_type);
		text_copy(digest_header, sizeof(digest_header), rs->content_digest);
		r = http_read_all(h, MANIFEST_MAX, &out->body, &out->len, err);
		if (r != -EAGAIN)
			break;
		r = -EIO;
	}
	give_back(reg, h);
	if (r == -EMSGSIZE)
		r = err_set(err, EBADMSG, "%s: a manifest of more than %u bytes is too large", url,
			    MANIFEST_MAX);
	if (r == 0) {
		digest_of(out->body, out->len, &out->digest);
		r = check_manifest(reg, want, out, digest_header, err);
	}
	if (r == 0 && want && *out->media_type && strcmp(out->media_type, want->media_type) != 0)
		r = err_set(err, EBADMSG, "%s: served as %s, the index says %s", url,
			    out->media_type, want->media_type);
	if (r < 0)
		document_free(out);
	return r;
}

static int registry_resolve(struct source *s, struct digest *out, struct err *err)
{
	struct registry *reg = (struct registry *)s;
	char url[1024];
	struct http_request rq = {.url = url, .accept = MANIFEST_ACCEPT, .head = true};
	const struct http_response *rs;
	struct http *h;
	int r;

	if (reg->ref.has_digest) {
		*out = reg->ref.digest;
		return 0;
	}
	r = borrow(reg, &h, err);
	if (r < 0)
		return r;
	manifest_url(reg, NULL, url, sizeof(url));
	r = send_request(reg, h, &rq, &rs, err);
	if (r == 0 && (rs->status != 200 || digest_parse(rs->content_digest, out, NULL) < 0))
		r = -ENOTSUP;
	give_back(reg, h);
	return r;
}

/* ---- blobs -------------------------------------------------------------------------------- */

static ssize_t stream_read(struct byte_stream *b, void *buf, size_t len, struct err *err)
{
	return http_read(((struct http_stream *)b)->h, buf, len, err);
}

static void stream_close(struct byte_stream *b)
{
	struct http_stream *s = (struct http_stream *)b;

	give_back(s->reg, s->h);
	free(s);
}

/* A server without ranges sends all again: pass over what we have. */
static int skip(struct http *h, uint64_t n, struct err *err)
{
	uint8_t buf[16384];

	while (n) {
		ssize_t got = http_read(h, buf, MIN(n, (uint64_t)sizeof(buf)), err);

		if (got <= 0)
			return got < 0 ? (int)got
				       : err_set(err, EBADMSG, "the blob has become shorter");
		n -= got;
	}
	return 0;
}

static int open_at(struct registry *reg, struct http *h, const char *url,
		   const struct descriptor *d, uint64_t offset, struct err *err)
{
	struct http_request rq = {
		.url = url, .range = offset > 0, .range_from = offset, .range_to = d->size - 1};
	const struct http_response *rs;
	int r = send_request(reg, h, &rq, &rs, err);

	if (r == 0 && rs->status == 416 && rq.range) {
		rq.range = false;
		r = send_request(reg, h, &rq, &rs, err);
	}
	if (r < 0)
		return r;
	if (rs->status != 200 && !(rs->status == 206 && rq.range))
		return status_error(h, rs, url, err);

	bool partial = rs->status == 206;
	uint64_t expect = partial ? d->size - offset : d->size;

	if (partial && (!rs->has_range || rs->range_first != offset))
		return err_set(err, EBADMSG,
			       "the registry answers with another range than asked for");
	if (rs->content_length >= 0 && (uint64_t)rs->content_length != expect)
		return err_set(err, EBADMSG, "the registry sends %ld bytes, %lu were promised",
			       (long)rs->content_length, (unsigned long)expect);
	return partial ? 0 : skip(h, offset, err);
}

static int registry_blob(struct source *s, const struct descriptor *d, uint64_t offset,
			 struct byte_stream **out, struct err *err)
{
	struct registry *reg = (struct registry *)s;
	char url[1024], digest[DIGEST_STR_MAX];
	struct http_stream *st = calloc(1, sizeof(*st));
	int r;

	if (!st)
		return err_set(err, ENOMEM, "out of memory");
	*st = (struct http_stream){.b = {.read = stream_read, .close = stream_close}, .reg = reg};
	r = borrow(reg, &st->h, err);
	if (r < 0) {
		free(st);
		return r;
	}
	snprintf(url, sizeof(url), "%s/v2/%s/blobs/%s", reg->base, reg->ref.repository,
		 digest_format(&d->digest, digest));
	r = open_at(reg, st->h, url, d, offset, err);
	if (r < 0) {
		stream_close(&st->b);
		return r;
	}
	*out = &st->b;
	return 0;
}

/* ---- opening ------------------------------------------------------------------------------ */

static void registry_close(struct source *s)
{
	struct registry *reg = (struct registry *)s;

	while (reg->pooled)
		http_free(reg->pool[--reg->pooled]);
	if (reg->authorization)
		explicit_bzero(reg->authorization, strlen(reg->authorization));
	free(reg->authorization);
	credentials_free(&reg->creds);
	pthread_mutex_destroy(&reg->lock);
	free(reg);
}

static const struct source_ops registry_ops = {
	.manifest = registry_manifest,
	.resolve = registry_resolve,
	.open_blob = registry_blob,
	.close = registry_close,
};

/* Whether anyone speaks TLS there: 1, 0, or an error worth reporting (an untrusted certificate). */
static int speaks_tls(struct registry *reg, struct err *err)
{
	struct http_options o = reg->o.http;
	const struct http_response *rs;
	char url[sizeof(reg->base) + 8];
	struct http_request rq = {.url = url};
	struct http *h;
	int r;

	o.attempts = 1;
	if (ref_is_loopback(&reg->ref))
		o.timeout = MIN(o.timeout, LOOPBACK_TIMEOUT);
	r = http_new(&o, &h, err);
	if (r < 0)
		return r;
	snprintf(url, sizeof(url), "%s/v2/", reg->base);
	r = http_open(h, &rq, &rs, err);
	http_free(h);
	if (r == -EPROTO || r == -ECONNREFUSED || r == -EIO) {
		log_info("%s speaks no TLS: using plain HTTP", reg->ref.registry);
		return 0;
	}
	return r < 0 ? r : 1;
}

static int choose_scheme(struct registry *reg, struct err *err)
{
	const char *host = ref_registry_host(&reg->ref);
	int tls = 1;

	reg->https = !reg->o.plain_http;
	snprintf(reg->base, sizeof(reg->base), "%s://%s", reg->https ? "https" : "http", host);
	if (reg->https && (ref_is_loopback(&reg->ref) || reg->o.http.insecure))
		tls = speaks_tls(reg, err);
	if (tls < 0)
		return err_wrap(err, tls, "registry %s", reg->ref.registry);
	if (tls == 0) {
		reg->https = false;
		snprintf(reg->base, sizeof(reg->base), "http://%s", host);
	}
	return 0;
}

int registry_open(const struct ref *ref, const struct registry_options *o, struct source **out,
		  struct err *err)
{
	struct registry *reg = calloc(1, sizeof(*reg));
	int r;

	if (!reg)
		return err_set(err, ENOMEM, "open registry: out of memory");
	reg->source = (struct source){.ops = &registry_ops, .cancel = o->http.cancel};
	reg->ref = *ref;
	reg->o = *o;
	pthread_mutex_init(&reg->lock, NULL);
	r = o->userpass ? credentials_parse(o->userpass, &reg->creds, err)
			: credentials_find(o->authfile, ref->registry, ref->repository, &reg->creds,
					   err);
	if (r == 0)
		r = choose_scheme(reg, err);
	if (r < 0) {
		registry_close(&reg->source);
		return r;
	}
	*out = &reg->source;
	return 0;
}
