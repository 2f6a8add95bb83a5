/*
 * http.h - one HTTP exchange over libcurl, read by its caller rather than pushed at it.
 *
 * The caller pulls the body at its own pace and the transfer waits when nobody reads: memory is
 * bounded by one buffer. Redirects are followed here, at most HTTP_REDIRECTS_MAX: an
 * Authorization is sent only to the scheme, host and port it was given for, and never from HTTPS to
 * plain HTTP. Transient failures - 429, 5xx, broken connections, stalls - are retried with a
 * growing, jittered pause or the server's Retry-After.
 *
 * A struct http belongs to one thread and keeps its connections for the next request.
 */
#ifndef PULL_HTTP_H
#define PULL_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "pull/cancel.h"

#define HTTP_REDIRECTS_MAX 10
#define HTTP_VALUE_MAX	   4096

struct err;
struct http;
struct http_response;

struct http_options {
	const char *cacert; /* PEM file besides the system's, or NULL */
	bool insecure;	    /* do not verify certificates */
	unsigned timeout;   /* seconds to connect, and that a body may stall */
	unsigned attempts;  /* of one request, first included */
	struct cancel *cancel;
};

int http_new(const struct http_options *options, struct http **out, struct err *err);
void http_free(struct http *h);

struct http_request {
	const char *url;
	const char *authorization; /* the header's value, or NULL */
	const char *accept;	   /* or NULL */
	bool head;
	const char *form;    /* POST this form (application/x-www-form-urlencoded), or NULL */
	uint64_t range_from; /* with range_to: ask for these bytes, both included */
	uint64_t range_to;
	bool range;
};

/* Headers the caller may need; "" when absent. */
struct http_response {
	long status;
	char content_type[HTTP_VALUE_MAX];
	char content_digest[HTTP_VALUE_MAX];
	char authenticate[HTTP_VALUE_MAX]; /* several joined by commas */
	int64_t content_length;		   /* -1 = not told */
	uint64_t range_first;		   /* of Content-Range */
	bool has_range;
	bool foreign; /* a redirect led to another origin, whose word counts for nothing but bytes
		       */
};

/*
 * Send, and wait for the headers of the final answer, whatever its status; owned by `h` until the
 * next http_open(). -ECONNREFUSED and -EPROTO (TLS) tell a server that speaks no HTTPS.
 */
int http_open(struct http *h, const struct http_request *rq, const struct http_response **out,
	      struct err *err);
/* Body bytes, 0 at the end; -EAGAIN when the transfer broke off. */
ssize_t http_read(struct http *h, void *buf, size_t len, struct err *err);
/* The rest of the body, at most `max` bytes (-EMSGSIZE above), NUL-terminated; the caller frees. */
int http_read_all(struct http *h, size_t max, char **out, size_t *len, struct err *err);

#endif
