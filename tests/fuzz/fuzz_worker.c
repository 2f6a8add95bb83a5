/*
 * What a supervisor can send: the input is bytes on the socket, cut into lines as the link does,
 * and after each line one byte of what has happened meanwhile. No state of the session is lost,
 * lines out are lines, a job is out only when none is. What line_parse() takes must come back
 * through line_quote().
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runner/worker/session.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool out; /* a job, but for a warm-up, which any other ends */

static void say(void *arg, const char *line, size_t n)
{
	if (n < 2 || n > LINE_LEN_MAX + 1 || line[n - 1] != '\n' || memchr(line, '\n', n - 1))
		abort();
}

static void start(void *arg, const struct job *j)
{
	if (out)
		abort();
	out = j->kind != JOB_WARM_UP;
}

static uint64_t copied(void *arg)
{
	return 0;
}

static const struct session_ops ops = {say, start, copied};

static void round_trip(const char *p, size_t n)
{
	static char word[4 * LINE_PATH_MAX + 3], text[sizeof(word) + 16];
	struct request a, b;
	struct err err;

	line_parse(p, n, false, &a, &err);
	if (line_parse(p, n, true, &a, &err) < 0 || !a.path[0])
		return;
	line_quote(a.path, word);
	int len = snprintf(text, sizeof(text), "RESTORE %s", word);
	if (len > LINE_LEN_MAX)
		return;
	if (line_parse(text, (size_t)len, true, &b, &err) < 0 || strcmp(a.path, b.path) != 0)
		abort();
}

static void happen(struct session *s, uint8_t what, uint64_t *now)
{
	struct event e = {.how = "warm", .ended = "reset", .kept = what & 8, .generation = what};

	*now += (uint64_t)(what >> 4) * 10000000;
	session_tick(s, *now);
	if (s->over)
		return;
	if (what & 4) {
		e.err.code = EIO;
		memset(e.err.msg, what, sizeof(e.err.msg) - 1);
	}
	if ((what & 3) == 1 && s->writing) {
		e.kind = e.err.code ? EVENT_UNWRITTEN : EVENT_WRITTEN;
	} else if ((what & 3) == 2 && s->machine) {
		e.kind = what & 8 ? EVENT_WARMED : EVENT_ENDED;
	} else if ((what & 3) == 3 && out) {
		out = false;
		e.kind = s->doing == JOB_LEAVE		  ? EVENT_LEFT
			 : e.err.code			  ? EVENT_FAILED
			 : s->doing == JOB_SNAPSHOT	  ? EVENT_SAVED
			 : s->doing == JOB_SNAPSHOT_ASYNC ? EVENT_ACCEPTED
							  : EVENT_RESTORED;
	} else {
		return;
	}
	session_event(s, &e, *now);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint64_t now = 1000000;
	struct session s;

	if (!size)
		return 0;
	out = false;
	session_init(&s, &ops, NULL, "id", "/run/a \"b");
	session_begin(&s, *data & 1, now);
	for (data++, size--; size && !s.over;) {
		const uint8_t *nl = memchr(data, '\n', size);
		const size_t n = nl ? (size_t)(nl - data) : size;

		round_trip((const char *)data, n);
		if (n <= LINE_LEN_MAX)
			session_line(&s, (const char *)data, n, now);
		else
			session_no_line(&s, EMSGSIZE, now);
		data += n + (nl != NULL);
		size -= n + (nl != NULL);
		if (size) {
			happen(&s, *data, &now);
			data++;
			size--;
		}
	}
	session_quit(&s, now);
	session_tick(&s, now + 3600ull * 1000000);
	if (!s.over)
		abort();
	return 0;
}
