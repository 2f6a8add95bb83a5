#include "pull/http.h"

#include <curl/curl.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>
#include <time.h>

#include "pull/text.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/err.h"
#include "smfs/base/log.h"
#include "smfs/base/num.h"

/* Room for what curl delivers at once (CURL_MAX_WRITE_SIZE), twice, so that a transfer keeps
 * moving. */
#define BUFFER (256u << 10)
/* All header lines of one answer. */
#define HEADERS_MAX (256u << 10)
/* A body must average this, over each stall period of waiting. */
#define MIN_RATE 1024u
/* The first pause between attempts; doubles. */
#define BACKOFF_MS 250u
/* Not longer, whatever Retry-After says: beyond this the user had better know. */
#define RETRY_AFTER_MAX_S 60u

struct http {
	struct http_options o;
	CURLM *multi;
	CURL *easy;
	bool added, ended;
	CURLcode result;
	struct curl_slist *headers;
	char curl_error[CURL_ERROR_SIZE];

	struct http_response rs;
	bool headers_done;
	size_t header_bytes;
	unsigned retry_after;
	char location[HTTP_VALUE_MAX];

	bool paused;
	size_t pos, len; /* unread bytes in buffer */
	uint64_t received;
	/* Time spent waiting for the server, and what had come, since the rate was last looked at.
	 */
	int64_t waited;
	uint64_t mark;
	uint8_t buffer[BUFFER];
};

int http_new(const struct http_options *options, struct http **out, struct err *err)
{
	struct http *h = calloc(1, sizeof(*h));

	if (h) {
		h->o = *options;
		h->multi = curl_multi_init();
		h->easy = curl_easy_init();
	}
	if (!h || !h->multi || !h->easy) {
		http_free(h);
		return err_set(err, ENOMEM, "start an HTTP client: out of memory");
	}
	*out = h;
	return 0;
}

static void end_transfer(struct http *h)
{
	if (h->added)
		curl_multi_remove_handle(h->multi, h->easy);
	h->added = false;
	curl_slist_free_all(h->headers);
	h->headers = NULL;
}

void http_free(struct http *h)
{
	if (!h)
		return;
	end_transfer(h);
	curl_easy_cleanup(h->easy);
	curl_multi_cleanup(h->multi);
	free(h);
}

/* ---- what curl calls ---------------------------------------------------------------------- */

static bool header_is(const char *line, size_t n, const char *name, char out[HTTP_VALUE_MAX])
{
	size_t k = strlen(name);

	if (n <= k || line[k] != ':' || strncasecmp(line, name, k) != 0)
		return false;
	line += k + 1;
	n -= k + 1;
	while (n && (*line == ' ' || *line == '\t'))
		line++, n--;
	while (n && (line[n - 1] == '\r' || line[n - 1] == '\n' || line[n - 1] == ' '))
		n--;
	/* Too long to be right: taken as absent. */
	if (n >= HTTP_VALUE_MAX || memchr(line, '\0', n))
		n = 0;
	memcpy(out, line, n);
	out[n] = '\0';
	return true;
}

/* The first byte of "bytes FIRST-LAST/SIZE". */
static bool parse_range(char *value, uint64_t *first)
{
	char *dash = strchr(value, '-');

	if (strncasecmp(value, "bytes ", 6) != 0 || !dash)
		return false;
	*dash = '\0';
	return parse_u64(value + 6, 0, UINT64_MAX, first, NULL) == 0;
}

static size_t on_header(char *line, size_t size, size_t n, void *arg)
{
	struct http *h = arg;
	struct http_response *rs = &h->rs;
	char value[HTTP_VALUE_MAX];

	h->header_bytes += n;
	if (h->header_bytes > HEADERS_MAX)
		return 0;
	if (n > 5 && strncasecmp(line, "HTTP/", 5) == 0) {
		/* A new answer: what an interim one (1xx, proxy CONNECT) said is void. */
		*rs = (struct http_response){.content_length = -1};
		h->retry_after = 0;
		h->location[0] = '\0';
	} else if (header_is(line, n, "content-type", value)) {
		value[strcspn(value, "; \t")] = '\0';
		text_copy(rs->content_type, sizeof(rs->content_type), value);
	} else if (header_is(line, n, "docker-content-digest", value)) {
		text_copy(rs->content_digest, sizeof(rs->content_digest), value);
	} else if (header_is(line, n, "location", value)) {
		text_copy(h->location, sizeof(h->location), value);
	} else if (header_is(line, n, "www-authenticate", value)) {
		/* What does not fit is one challenge less to choose from. */
		char joined[HTTP_VALUE_MAX];

		text_copy(joined, sizeof(joined), rs->authenticate);
		if ((!*joined || text_append(joined, sizeof(joined), ", ")) &&
		    text_append(joined, sizeof(joined), value))
			text_copy(rs->authenticate, sizeof(rs->authenticate), joined);
	} else if (header_is(line, n, "content-range", value)) {
		rs->has_range = parse_range(value, &rs->range_first);
	} else if (header_is(line, n, "retry-after", value)) {
		uint64_t s;
		time_t at;

		if (parse_u64(value, 0, 1u << 30, &s, NULL) == 0)
			h->retry_after = s;
		else if ((at = curl_getdate(value, NULL)) > 0)
			h->retry_after = MAX(at - time(NULL), 0);
	} else if (n <= 2) {
		curl_off_t length = -1;

		curl_easy_getinfo(h->easy, CURLINFO_RESPONSE_CODE, &rs->status);
		curl_easy_getinfo(h->easy, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &length);
		rs->content_length = length;
		h->headers_done = rs->status >= 200;
	}
	return n;
}

static size_t on_body(char *p, size_t size, size_t n, void *arg)
{
	struct http *h = arg;

	if (h->pos && h->len + n > BUFFER - h->pos) {
		memmove(h->buffer, h->buffer + h->pos, h->len);
		h->pos = 0;
	}
	if (h->len + n > BUFFER - h->pos) {
		h->paused = true;
		return CURL_WRITEFUNC_PAUSE;
	}
	memcpy(h->buffer + h->pos + h->len, p, n);
	h->len += n;
	h->received += n;
	return n;
}

/* ---- driving a transfer ------------------------------------------------------------------- */

static int64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* What a finished transfer's error means: -EAGAIN = worth another attempt. */
static int transfer_error(struct http *h, struct err *err)
{
	const char *why = h->curl_error[0] ? h->curl_error : curl_easy_strerror(h->result);
	int code = EIO;

	switch (h->result) {
	case CURLE_COULDNT_CONNECT:
		code = ECONNREFUSED;
		break;
	case CURLE_SSL_CONNECT_ERROR:
		code = EPROTO;
		break;
	case CURLE_PEER_FAILED_VERIFICATION:
	case CURLE_SSL_CACERT_BADFILE:
		code = EACCES;
		break;
	case CURLE_COULDNT_RESOLVE_HOST:
	case CURLE_COULDNT_RESOLVE_PROXY:
		code = EHOSTUNREACH;
		break;
	case CURLE_URL_MALFORMAT:
	case CURLE_UNSUPPORTED_PROTOCOL:
		code = EINVAL;
		break;
	case CURLE_OUT_OF_MEMORY:
		code = ENOMEM;
		break;
	case CURLE_WRITE_ERROR:
		err_set(err, EBADMSG, "too many or too long response headers");
		return -EBADMSG;
	case CURLE_OPERATION_TIMEDOUT:
	case CURLE_SEND_ERROR:
	case CURLE_RECV_ERROR:
	case CURLE_GOT_NOTHING:
	case CURLE_PARTIAL_FILE:
	case CURLE_HTTP2:
	case CURLE_HTTP2_STREAM:
		err_set(err, EIO, "%s", why);
		return -EAGAIN;
	default:
		break;
	}
	return err_set(err, code, "%s", why);
}

/* Run until there is something to read, or the headers (while waiting for them) or the end came. */
static int run(struct http *h, bool want_headers, struct err *err)
{
	for (;;) {
		struct curl_waitfd extra = {.fd = h->o.cancel->fd, .events = CURL_WAIT_POLLIN};
		int running, left;
		int64_t before;
		CURLMsg *msg;

		if (h->paused && h->len < BUFFER / 2) {
			h->paused = false;
			curl_easy_pause(h->easy, CURLPAUSE_CONT);
		}
		curl_multi_perform(h->multi, &running);
		while ((msg = curl_multi_info_read(h->multi, &left))) {
			if (msg->msg == CURLMSG_DONE) {
				h->ended = true;
				h->result = msg->data.result;
			}
		}
		if (cancelled(h->o.cancel))
			return cancel_error(err);
		if (h->ended && h->result != CURLE_OK && h->len == 0)
			return transfer_error(h, err);
		if (h->ended || (want_headers ? h->headers_done : h->len > 0))
			return 0;
		before = now_ms();
		curl_multi_poll(h->multi, &extra, 1, 1000, NULL);
		h->waited += now_ms() - before;
		if (h->waited >= (int64_t)h->o.timeout * 1000) {
			if (h->received - h->mark < (uint64_t)MIN_RATE * h->o.timeout) {
				err_set(err, ETIMEDOUT, "the server stalled: %lu bytes in %u s",
					(unsigned long)(h->received - h->mark), h->o.timeout);
				return -EAGAIN;
			}
			h->waited = 0;
			h->mark = h->received;
		}
	}
}

static int add_header(struct http *h, const char *name, const char *value)
{
	cleanup_free char *line = NULL;
	struct curl_slist *l;

	if (asprintf(&line, "%s: %s", name, value) < 0)
		return -ENOMEM;
	l = curl_slist_append(h->headers, line);
	if (!l)
		return -ENOMEM;
	h->headers = l;
	return 0;
}

static int start(struct http *h, const struct http_request *rq, const char *url,
		 const char *authorization, struct err *err)
{
	char range[64];
	CURL *c = h->easy;

	end_transfer(h);
	curl_easy_reset(c);
	h->rs = (struct http_response){.content_length = -1};
	h->headers_done = h->ended = h->paused = false;
	h->header_bytes = h->pos = h->len = h->received = h->mark = 0;
	h->waited = 0;
	h->curl_error[0] = '\0';
	curl_easy_setopt(c, CURLOPT_URL, url);
	curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
	curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(c, CURLOPT_ERRORBUFFER, h->curl_error);
	curl_easy_setopt(c, CURLOPT_USERAGENT, "smvm-pull/" SMFS_VERSION);
	curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT, (long)h->o.timeout);
	curl_easy_setopt(c, CURLOPT_HEADERFUNCTION, on_header);
	curl_easy_setopt(c, CURLOPT_HEADERDATA, h);
	curl_easy_setopt(c, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
	curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_body);
	curl_easy_setopt(c, CURLOPT_WRITEDATA, h);
	/* TLS as the system trusts it; ~/.netrc and cookies have no say here. */
	curl_easy_setopt(c, CURLOPT_NETRC, (long)CURL_NETRC_IGNORED);
	if (h->o.cacert)
		curl_easy_setopt(c, CURLOPT_CAINFO, h->o.cacert);
	if (h->o.insecure) {
		curl_easy_setopt(c, CURLOPT_SSL_VERIFYPEER, 0L);
		curl_easy_setopt(c, CURLOPT_SSL_VERIFYHOST, 0L);
	}
	if (rq->head)
		curl_easy_setopt(c, CURLOPT_NOBODY, 1L);
	if (rq->form)
		curl_easy_setopt(c, CURLOPT_COPYPOSTFIELDS, rq->form);
	if (rq->range) {
		snprintf(range, sizeof(range), "%lu-%lu", (unsigned long)rq->range_from,
			 (unsigned long)rq->range_to);
		curl_easy_setopt(c, CURLOPT_RANGE, range);
	}
	if ((rq->accept && add_header(h, "Accept", rq->accept) < 0) ||
	    (authorization && add_header(h, "Authorization", authorization) < 0) ||
	    curl_easy_setopt(c, CURLOPT_HTTPHEADER, h->headers) != CURLE_OK ||
	    curl_multi_add_handle(h->multi, c) != CURLM_OK)
		return err_set(err, ENOMEM, "out of memory");
	h->added = true;
	return 0;
}

/* ---- redirects ---------------------------------------------------------------------------- */

static void curlu_done(CURLU **u)
{
	curl_url_cleanup(*u);
}

static char *url_part(CURLU *u, CURLUPart part)
{
	char *s = NULL;

	curl_url_get(u, part, &s, part == CURLUPART_PORT ? CURLU_DEFAULT_PORT : 0);
	return s;
}

static bool same_part(CURLU *a, CURLU *b, CURLUPart part)
{
	char *x = url_part(a, part), *y = url_part(b, part);
	bool same = x && y && strcasecmp(x, y) == 0;

	curl_free(x);
	curl_free(y);
	return same;
}

/* Resolve h->location against *url into a new *url; *same_origin tells whether credentials may
 * follow. */
static int redirect(struct http *h, char **url, bool *same_origin, struct err *err)
{
	CURLU *from __attribute__((cleanup(curlu_done))) = curl_url();
	CURLU *to __attribute__((cleanup(curlu_done))) = NULL;
	char *next = NULL, *copy, *was, *is;

	if (!from || curl_url_set(from, CURLUPART_URL, *url, 0) != CURLUE_OK ||
	    !(to = curl_url_dup(from)))
		return err_set(err, ENOMEM, "redirect: out of memory");
	if (curl_url_set(to, CURLUPART_URL, h->location, 0) != CURLUE_OK ||
	    curl_url_get(to, CURLUPART_URL, &next, 0) != CURLUE_OK)
		return err_set(err, EBADMSG, "redirected to %.200s, which is no URL", h->location);
	was = url_part(from, CURLUPART_SCHEME);
	is = url_part(to, CURLUPART_SCHEME);
	bool downgrade = was && is && strcasecmp(was, "https") == 0 && strcasecmp(is, "https") != 0;

	curl_free(was);
	curl_free(is);
	copy = strdup(next);
	curl_free(next);
	if (!copy)
		return err_set(err, ENOMEM, "redirect: out of memory");
	free(*url);
	*url = copy;
	if (downgrade)
		return err_set(err, EBADMSG, "redirected from HTTPS to %.200s: refused", copy);
	*same_origin = same_part(from, to, CURLUPART_SCHEME) &&
		       same_part(from, to, CURLUPART_HOST) && same_part(from, to, CURLUPART_PORT);
	return 0;
}

static bool is_redirect(long status)
{
	return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}

/* One attempt, redirects included. */
static int attempt(struct http *h, const struct http_request *rq, struct err *err)
{
	cleanup_free char *url = strdup(rq->url);
	const char *authorization = rq->authorization;
	bool foreign = false, same = true;

	if (!url)
		return err_set(err, ENOMEM, "out of memory");
	for (unsigned hop = 0;; hop++) {
		int r = start(h, rq, url, authorization, err);

		if (r == 0)
			r = run(h, true, err);
		if (r < 0)
			return err_wrap(err, r, "%.300s", url);
		if (!h->headers_done)
			return err_set(err, EIO, "%.300s: no answer", url), -EAGAIN;
		if (!is_redirect(h->rs.status) || !h->location[0]) {
			h->rs.foreign = foreign;
			return 0;
		}
		if (rq->form)
			return err_set(err, EBADMSG, "%.300s: a request for a token was redirected",
				       url);
		if (hop == HTTP_REDIRECTS_MAX)
			return err_set(err, ELOOP, "%.300s: more than %d redirects", url,
				       HTTP_REDIRECTS_MAX);
		r = redirect(h, &url, &same, err);
		if (r < 0)
			return r;
		if (!same) {
			authorization = NULL;
			foreign = true;
		}
	}
}

/* ---- attempts ----------------------------------------------------------------------------- */

static bool status_is_transient(long status)
{
	return status == 429 || status == 408 || (status >= 500 && status != 501 && status != 505);
}

static unsigned backoff_ms(unsigned n)
{
	uint32_t random = 0;
	unsigned base = BACKOFF_MS << MIN(n, 6u);

	if (getrandom(&random, sizeof(random), GRND_NONBLOCK) < 0)
		random = (uint32_t)now_ms();
	return base / 2 + random % base;
}

int http_open(struct http *h, const struct http_request *rq, const struct http_response **out,
	      struct err *err)
{
	for (unsigned n = 1;; n++) {
		int r = attempt(h, rq, err);
		unsigned pause = backoff_ms(n - 1);

		*out = &h->rs;
		if (r < 0 && r != -EAGAIN)
			return r;
		if (r == 0 && !status_is_transient(h->rs.status))
			return 0;
		if (r == 0) {
			err_set(err, h->rs.status == 429 ? EBUSY : EIO, "%.300s: HTTP status %ld",
				rq->url, h->rs.status);
			if (h->retry_after > RETRY_AFTER_MAX_S)
				return err_wrap(err, -EBUSY, "the server asks to come back in %u s",
						h->retry_after);
			if (h->retry_after)
				pause = h->retry_after * 1000;
		}
		if (n >= h->o.attempts)
			return err_wrap(err, err && err->code == EBUSY ? -EBUSY : -EIO,
					"gave up after %u attempts", n);
		log_info("attempt %u: %s; next in %u ms", n, err ? err->msg : "", pause);
		end_transfer(h);
		r = cancel_sleep(h->o.cancel, pause, err);
		if (r < 0)
			return r;
	}
}

ssize_t http_read(struct http *h, void *buf, size_t len, struct err *err)
{
	size_t n;

	if (h->len == 0 && !(h->ended && h->result == CURLE_OK)) {
		int r = run(h, false, err);

		if (r < 0)
			return r;
	}
	n = MIN(len, h->len);
	memcpy(buf, h->buffer + h->pos, n);
	h->pos += n;
	h->len -= n;
	if (h->len == 0)
		h->pos = 0;
	return n;
}

int http_read_all(struct http *h, size_t max, char **out, size_t *len, struct err *err)
{
	size_t cap = 0, n = 0;
	char *buf = NULL;

	for (;;) {
		ssize_t got;

		if (n + 1 >= cap) {
			size_t want = cap ? cap * 2 : 16384;
			char *p = realloc(buf, want);

			if (!p) {
				free(buf);
				return err_set(err, ENOMEM, "read answer: out of memory");
			}
			buf = p;
			cap = want;
		}
		got = http_read(h, buf + n, cap - n - 1, err);
		if (got < 0) {
			free(buf);
			return (int)got;
		}
		if (got == 0)
			break;
		n += got;
		if (n > max) {
			free(buf);
			return err_set(err, EMSGSIZE, "the answer is longer than %zu bytes", max);
		}
	}
	buf[n] = '\0';
	*out = buf;
	*len = n;
	return 0;
}
