/*
 * token.h - trade credentials for an Authorization value, as a registry's challenge asks.
 *
 * Bearer: the realm is asked for a token, anonymously when there are no credentials (distribution's
 * token protocol; an identity token goes by OAuth2). Credentials never go to a plain-HTTP realm on
 * behalf of a registry reached by HTTPS.
 */
#ifndef PULL_TOKEN_H
#define PULL_TOKEN_H

#include <stdbool.h>

struct challenge;
struct credentials;
struct err;
struct http;

/* *out: "Bearer ..." or "Basic ...", the caller frees. -EACCES when there is no way to satisfy it.
 */
int token_obtain(struct http *h, const struct challenge *c, const struct credentials *creds,
		 const char *default_scope, bool registry_is_https, char **out, struct err *err);

#endif
