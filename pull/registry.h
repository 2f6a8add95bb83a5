/*
 * registry.h - a registry of the OCI distribution protocol (Docker Registry v2) as a source.
 *
 * Reached by HTTPS; by plain HTTP only when told so, or when the registry is this very machine and
 * does not speak TLS. Challenges are answered once per repository and the answer shared by all
 * threads. HTTP clients, and with them connections, are pooled.
 */
#ifndef PULL_REGISTRY_H
#define PULL_REGISTRY_H

#include <stdbool.h>

#include "pull/http.h"

struct err;
struct ref;
struct source;

struct registry_options {
	struct http_options http;
	bool plain_http;      /* HTTP only */
	const char *authfile; /* or NULL */
	const char *userpass; /* "user:password" or NULL */
};

/* Strings in the options are borrowed until the source is closed. */
int registry_open(const struct ref *ref, const struct registry_options *o, struct source **out,
		  struct err *err);

#endif
