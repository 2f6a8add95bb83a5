/*
 * challenge.h - WWW-Authenticate headers (RFC 9110 section 11.6.1) of registries.
 *
 * Only Bearer and Basic are understood; others are skipped. The text comes from the network:
 * lengths are bounded, anything malformed ends the parse.
 */
#ifndef PULL_CHALLENGE_H
#define PULL_CHALLENGE_H

#include <stdbool.h>

struct err;

enum challenge_scheme { CHALLENGE_NONE, CHALLENGE_BASIC, CHALLENGE_BEARER };

#define CHALLENGE_VALUE_MAX 2048

struct challenge {
	enum challenge_scheme scheme;
	char realm[CHALLENGE_VALUE_MAX];
	char service[CHALLENGE_VALUE_MAX];
	char scope[CHALLENGE_VALUE_MAX];
	char error[CHALLENGE_VALUE_MAX]; /* Bearer error="invalid_token" and the like */
};

/*
 * The strongest challenge of one header value (several may be joined by commas): Bearer before
 * Basic. scheme CHALLENGE_NONE when there is none we know. -EPROTO when malformed, or a Bearer has
 * no realm.
 */
int challenge_parse(const char *header, struct challenge *out, struct err *err);

#endif
