#include "runner/pool/claims.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "smfs/base/cleanup.h"
#include "smfs/base/num.h"

/* Of a pair that is repeated the first counts. */
static int take(struct ask_line *q, const char *key, const char *value, struct err *err)
{
	uint64_t n;
	int r = 0;

	if (!strcmp(key, "id") && !q->id[0]) {
		r = line_take_id(value, q->id, err);
	} else if (!strcmp(key, "deadline_ms") && q->what == ASK_CLAIM && !q->deadline_ms) {
		r = parse_u64(value, 1, LINE_DEADLINE_MAX, &n, err);
		q->deadline_ms = r < 0 ? 0 : (unsigned)n;
	} else if (!strcmp(key, "keep") && q->what == ASK_CLAIM && !q->keep_told) {
		if (strcmp(value, "0") != 0 && strcmp(value, "1") != 0)
			return err_set(err, EINVAL, "keep=%.16s: 0 or 1", value);
		q->keep = value[0] == '1';
		q->keep_told = true;
	} else if (!strcmp(key, "claim") && q->what == ASK_RELEASE && !q->claim) {
		r = parse_u64(value, 1, UINT64_MAX, &q->claim, err);
	} else if (!strcmp(key, "vm") && q->what == ASK_RELEASE && !q->vm[0]) {
		/* One that is longer is no machine's. */
		snprintf(q->vm, sizeof(q->vm), "%.63s", value);
	}
	return r;
}

int ask_parse(const char *p, size_t n, struct ask_line *q, struct err *err)
{
	char key[LINE_KEY_MAX], value[LINE_PATH_MAX];
	const char *end = p + n;
	int r;

	memset(q, 0, sizeof(*q));
	for (size_t i = 0; i < n; i++)
		if ((unsigned char)p[i] < 0x20 || p[i] == 0x7f)
			return err_set(err, EILSEQ, "a line that is not text");
	r = line_word(&p, end, key, value);
	if (r == 0)
		return 0;
	q->what = r < 0 || key[0]	      ? ASK_NONE
		  : !strcmp(value, "CLAIM")   ? ASK_CLAIM
		  : !strcmp(value, "RELEASE") ? ASK_RELEASE
		  : !strcmp(value, "STATUS")  ? ASK_STATUS
					      : ASK_NONE;
	if (q->what == ASK_NONE)
		return err_set(err, ENOSYS, "no such request");
	while ((r = line_word(&p, end, key, value)) > 0) {
		if (!key[0])
			return err_set(err, EINVAL, "a word that is not KEY=VALUE");
		if ((r = take(q, key, value, err)) < 0)
			return r;
	}
	if (r < 0)
		return err_set(err, EINVAL, "bad grammar");
	if (q->what == ASK_RELEASE && !q->claim == !q->vm[0])
		return err_set(err, EINVAL, "RELEASE takes claim= or vm=");
	return 0;
}

void client_say(struct client *c, const char *fmt, ...)
{
	cleanup_free char *line = NULL;
	va_list ap;
	int n;

	if (c->gone)
		return;
	va_start(ap, fmt);
	n = vasprintf(&line, fmt, ap);
	va_end(ap);
	if (n < 0) {
		line = NULL;
		c->gone = true;
		return;
	}
	line[n] = '\n'; /* in place of the terminator: sent by length */
	c->gone = send(c->fd, line, (size_t)n + 1, MSG_NOSIGNAL | MSG_DONTWAIT) != n + 1;
}

void client_error(struct client *c, const char *word, const char *id, int code, const char *text)
{
	client_say(c, "%s %s%s%scode=%s %s", word, id[0] ? "id=" : "", id, id[0] ? " " : "",
		   line_error_name(code), text);
}
