#include "pull/token.h"

#include <curl/curl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "pull/challenge.h"
#include "pull/credentials.h"
#include "pull/http.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/err.h"

#define TOKEN_ANSWER_MAX (256u << 10)
#define CLIENT_ID	 "smvm-pull"

static void curl_done(char **p)
{
	curl_free(*p);
}
#define cleanup_curl cleanup_with(curl_done)

/* The token out of a realm's answer. */
static int parse_answer(const char *body, size_t len, char **out, struct err *err)
{
	json_t *j = json_loadb(body, len, 0, NULL);
	const char *t = json_string_value(json_object_get(j, "token"));
	int r = 0;

	if (!t || !*t)
		t = json_string_value(json_object_get(j, "access_token"));
	if (!t || !*t || strpbrk(t, "\r\n"))
		r = err_set(err, EPROTO, "its answer holds no token");
	else if (asprintf(out, "Bearer %s", t) < 0)
		r = err_set(err, ENOMEM, "out of memory");
	json_decref(j);
	return r;
}

static int build(const struct challenge *c, const struct credentials *creds, const char *scope,
		 char **url, char **form, struct err *err)
{
	cleanup_curl char *service = curl_easy_escape(NULL, c->service, 0);
	cleanup_curl char *esc_scope = curl_easy_escape(NULL, scope, 0);
	cleanup_curl char *token = NULL;
	int n;

	*url = *form = NULL;
	if (creds->identity_token) {
		token = curl_easy_escape(NULL, creds->identity_token, 0);
		n = asprintf(form,
			     "grant_type=refresh_token&client_id=" CLIENT_ID
			     "&service=%s&scope=%s&refresh_token=%s",
			     service, esc_scope, token);
		if (n < 0)
			*form = NULL;
		else
			*url = strdup(c->realm);
	} else {
		n = asprintf(url, "%s%sservice=%s&scope=%s", c->realm,
			     strchr(c->realm, '?') ? "&" : "?", service, esc_scope);
		if (n < 0)
			*url = NULL;
	}
	return n < 0 || !*url ? err_set(err, ENOMEM, "token: out of memory") : 0;
}

static int ask_realm(struct http *h, const struct challenge *c, const struct credentials *creds,
		     const char *scope, char **out, struct err *err)
{
	cleanup_free char *url = NULL, *form = NULL, *basic = NULL, *body = NULL;
	const struct http_response *rs;
	struct http_request rq = {.accept = "application/json"};
	size_t len;
	int r = build(c, creds, scope, &url, &form, err);

	if (r < 0)
		return r;
	if (!form && creds->user && !(basic = credentials_basic(creds)))
		return err_set(err, ENOMEM, "token: out of memory");
	rq.url = url;
	rq.form = form;
	rq.authorization = basic;
	r = http_open(h, &rq, &rs, err);
	if (r < 0)
		return r;
	if (rs->status == 401 || rs->status == 403)
		return err_set(
			err, EACCES,
			creds->user || creds->identity_token
				? "the credentials were refused (HTTP status %ld)"
				: "no anonymous access (HTTP status %ld); give credentials with -u",
			rs->status);
	if (rs->status != 200)
		return err_set(err, EPROTO, "HTTP status %ld", rs->status);
	r = http_read_all(h, TOKEN_ANSWER_MAX, &body, &len, err);
	return r < 0 ? (r == -EAGAIN ? -EIO : r) : parse_answer(body, len, out, err);
}

int token_obtain(struct http *h, const struct challenge *c, const struct credentials *creds,
		 const char *default_scope, bool registry_is_https, char **out, struct err *err)
{
	bool have = creds->user || creds->identity_token;
	bool realm_https = strncasecmp(c->realm, "https://", 8) == 0;
	int r;

	*out = NULL;
	if (c->scheme == CHALLENGE_NONE)
		return err_set(
			err, EACCES,
			"the registry asks for a kind of authentication that is not supported");
	if (c->scheme == CHALLENGE_BASIC) {
		if (!creds->user)
			return err_set(
				err, EACCES,
				"the registry asks for a password; give one with -u USER:PASSWORD "
				"or `docker login`");
		*out = credentials_basic(creds);
		return *out ? 0 : err_set(err, ENOMEM, "out of memory");
	}
	if (!realm_https && strncasecmp(c->realm, "http://", 7) != 0)
		return err_set(err, EPROTO, "the registry's token service %.200s is no HTTP URL",
			       c->realm);
	if (!realm_https && registry_is_https && have)
		return err_set(err, EACCES,
			       "the registry's token service %.200s is not HTTPS: credentials are "
			       "not sent",
			       c->realm);
	r = ask_realm(h, c, creds, *c->scope ? c->scope : default_scope, out, err);
	return r < 0 ? err_wrap(err, r, "token service %.200s", c->realm) : 0;
}
