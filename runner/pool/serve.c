/* serve.c - a pool's clients and their claims. */
#include "runner/pool/pool_priv.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "runner/control/jsontext.h"
#include "runner/control/publish.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/clock.h"
#include "smfs/base/log.h"
#include "smfs/base/num.h"

#define ACCEPT_PAUSE_US 100000

/* ---- claims --------------------------------------------------------------------------------- */

static void forget(struct pool *p, struct waiter *w)
{
	TAILQ_REMOVE(&p->waiters, w, queue);
	p->nwaiting--;
	free(w);
}

static void refuse(struct pool *p, struct waiter *w, int code, const char *text)
{
	client_error(w->client, "ERR_CLAIM", w->id, code, text);
	forget(p, w);
}

/* What was to be run in it has been. */
static bool is_rested(const struct member *m)
{
	return !m->cold && !m->warming;
}

static struct member *freshest(struct pool *p)
{
	struct member *best = NULL;

	/* The last that became warm: what its guest uses is still in the processor's caches, and
	 * the others become idle. But one that is still being warmed up comes last. */
	for (size_t i = 0; i < POOL_MEMBERS_MAX; i++) {
		struct member *m = p->member[i];

		if (!m || m->state != MEMBER_WARM)
			continue;
		if (!best ||
		    (is_rested(m) == is_rested(best) ? m->since_us > best->since_us : is_rested(m)))
			best = m;
	}
	return best;
}

static void give(struct pool *p, struct waiter *w, struct member *m)
{
	char ports[VM_FORWARDS_MAX * 4 + 64] = "", word[VM_FORWARDS_MAX * 4 + 3];
	const uint64_t now = monotonic_us();

	if (m->forwards[0]) {
		line_quote(m->forwards, word);
		snprintf(ports, sizeof(ports), " host_port=%u forwards=%s",
			 publish_port(m->forwards, 0), word);
	}
	m->state = MEMBER_CLAIMED;
	m->since_us = now;
	m->claim = ++p->last_claim;
	m->owner = w->keep ? 0 : w->client->number;
	p->count.claims++;
	client_say(w->client,
		   "CLAIMED claim=%" PRIu64 " vm=%s dir=%s pid=%d waited_us=%" PRIu64 "%s%s%s",
		   m->claim, m->vm, m->quoted, (int)m->pid, now - w->since_us, ports,
		   w->id[0] ? " id=" : "", w->id);
	/* It has not heard of it, so it is not its. */
	if (w->client->gone)
		member_reset(m, p->snapshot);
	forget(p, w);
}

static const char *short_text(uint64_t left, uint64_t reserve, char text[128])
{
	char a[SIZE_STR_MAX], b[SIZE_STR_MAX];

	snprintf(text, 128, "%s of memory are available, and %s are to stay so (--reserve)",
		 format_size(left, a), format_size(reserve, b));
	return text;
}

void pool_serve_waiters(struct pool *p)
{
	char text[128];
	struct waiter *w;
	struct member *m;

	while ((w = TAILQ_FIRST(&p->waiters)) && (m = freshest(p))) {
		if (w->client->gone) {
			forget(p, w);
			continue;
		}
		const uint64_t left = room_available(&p->room);
		if (left < p->cfg->reserve_bytes) {
			p->count.refused++;
			refuse(p, w, ENOMEM, short_text(left, p->cfg->reserve_bytes, text));
			continue;
		}
		give(p, w, m);
	}
}

void pool_time_out_waiters(struct pool *p)
{
	const uint64_t now = monotonic_us();
	char text[ERR_MSG_MAX + 128];
	struct waiter *w, *next;

	for (w = TAILQ_FIRST(&p->waiters); w; w = next) {
		next = TAILQ_NEXT(w, queue);
		if (now < w->deadline_us)
			continue;
		p->count.timed_out++;
		snprintf(text, sizeof(text), "no machine within %" PRIu64 " ms%s%s",
			 (now - w->since_us) / 1000,
			 p->short_of_memory ? "; there is no memory for another"
			 : p->failures	    ? "; the last start failed: "
					    : "",
			 p->short_of_memory || !p->failures ? "" : p->last_failure.msg);
		refuse(p, w, ETIMEDOUT, text);
	}
}

static void ask_claim(struct pool *p, struct client *c, const struct ask_line *q)
{
	const unsigned ms = q->deadline_ms ? q->deadline_ms : p->cfg->acquire_ms;
	struct waiter *w;

	if (p->stopping) {
		client_error(c, "ERR_CLAIM", q->id, ESHUTDOWN, "the pool is ending");
		return;
	}
	if (p->nwaiting == WAITING_MAX || !(w = calloc(1, sizeof(*w)))) {
		client_error(c, "ERR_CLAIM", q->id, EAGAIN, "too many claims are waiting");
		return;
	}
	memcpy(w->id, q->id, sizeof(w->id));
	w->client = c;
	w->keep = q->keep;
	w->since_us = monotonic_us();
	w->deadline_us = w->since_us + ms * (uint64_t)1000;
	TAILQ_INSERT_TAIL(&p->waiters, w, queue);
	p->nwaiting++;
	pool_serve_waiters(p);
}

/* Another has ended the claim of a connection that goes on. */
static void tell_owner(struct pool *p, const struct member *m, const struct client *by)
{
	struct client *c;

	TAILQ_FOREACH (c, &p->clients, all)
		if (m->owner == c->number && c != by)
			client_say(c,
				   "LOST claim=%" PRIu64
				   " vm=%s code=ECANCELED released by another",
				   m->claim, m->vm);
}

static void ask_release(struct pool *p, struct client *c, const struct ask_line *q)
{
	for (size_t i = 0; i < POOL_MEMBERS_MAX; i++) {
		struct member *m = p->member[i];

		if (!m || m->state != MEMBER_CLAIMED ||
		    (q->claim ? m->claim != q->claim : strcmp(m->vm, q->vm) != 0))
			continue;
		client_say(c, "RELEASED claim=%" PRIu64 "%s%s", m->claim, q->id[0] ? " id=" : "",
			   q->id);
		p->count.released++;
		tell_owner(p, m, c);
		member_reset(m, p->snapshot);
		return;
	}
	client_error(c, "ERR_RELEASE", q->id, ENOENT, "there is no such claim (any more)");
}

static json_t *member_json(const struct member *m)
{
	const uint64_t for_ms = (monotonic_us() - m->since_us) / 1000;
	json_t *j = json_pack("{s:s, s:s, s:I, s:i, s:I, s:I, s:I, s:I, s:b}", "vm", m->vm, "state",
			      member_state_name(m->state), "state_ms", (json_int_t)for_ms, "pid",
			      (int)m->pid, "claim", (json_int_t)m->claim, "restores",
			      (json_int_t)m->restores, "warm_resets", (json_int_t)m->warm_resets,
			      "took_us", (json_int_t)m->took_us, "warming", m->warming);

	publish_add(j, m->forwards);
	return j;
}

static void ask_status(struct pool *p, struct client *c, const struct ask_line *q)
{
	const struct plan_in in = pool_survey(p);
	json_t *list = json_array();

	for (size_t i = 0; i < POOL_MEMBERS_MAX; i++)
		if (p->member[i])
			json_array_append_new(list, member_json(p->member[i]));
	json_t *j = json_pack(
		"{s:s, s:o, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, "
		"s:I, s:I, s:o}",
		"name", p->cfg->name, "snapshot", json_text(p->snapshot), "min", (int)in.min, "max",
		(int)in.max, "warm", (int)in.warm, "coming", (int)in.coming, "claimed",
		(int)in.claimed, "waiting", (int)in.waiting, "short_of_memory",
		(int)p->short_of_memory, "vm_bytes", (json_int_t)in.vm_bytes, "reserve_bytes",
		(json_int_t)in.reserve, "available_bytes", (json_int_t)in.available, "claims",
		(json_int_t)p->count.claims, "released", (json_int_t)p->count.released, "refused",
		(json_int_t)p->count.refused, "timed_out", (json_int_t)p->count.timed_out, "lost",
		(json_int_t)p->count.lost, "started", (json_int_t)p->count.started, "died",
		(json_int_t)p->count.died, "machines", list);
	if (p->failures)
		json_object_set_new(j, "last_failure", json_text(p->last_failure.msg));
	cleanup_free char *text = j ? json_dumps(j, JSON_COMPACT) : NULL;
	json_decref(j);
	if (text)
		client_say(c, "STATUS %s%s%s%s", q->id[0] ? "id=" : "", q->id, q->id[0] ? " " : "",
			   text);
	else
		client_error(c, "ERR_UNKNOWN", q->id, ENOMEM, "out of memory");
}

static void ask(struct pool *p, struct client *c, const char *line, size_t n)
{
	static const char *const error_word[] = {[ASK_NONE] = "ERR_UNKNOWN",
						 [ASK_CLAIM] = "ERR_CLAIM",
						 [ASK_RELEASE] = "ERR_RELEASE",
						 [ASK_STATUS] = "ERR_UNKNOWN"};
	struct err err = ERR_INIT;
	struct ask_line q;

	if (ask_parse(line, n, &q, &err) < 0) {
		client_error(c, error_word[q.what], q.id, err.code, err.msg);
		return;
	}
	switch (q.what) {
	case ASK_CLAIM:
		ask_claim(p, c, &q);
		break;
	case ASK_RELEASE:
		ask_release(p, c, &q);
		break;
	case ASK_STATUS:
		ask_status(p, c, &q);
		break;
	case ASK_NONE:
		break;
	}
}

/* ---- clients -------------------------------------------------------------------------------- */

void pool_accept_failed(struct pool *p)
{
	if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
		p->accept_again_us = monotonic_us() + ACCEPT_PAUSE_US;
}

void pool_accept_client(struct pool *p)
{
	cleanup_fd int fd = accept4(p->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct client *c;

	if (fd < 0) {
		pool_accept_failed(p);
		return;
	}
	c = malloc(sizeof(*c));
	if (!c) {
		log_warn("pool: out of memory, a connection is refused");
		return;
	}
	memset(c, 0, offsetof(struct client, buf));
	c->fd = steal_fd(&fd);
	c->number = ++p->last_client;
	TAILQ_INSERT_TAIL(&p->clients, c, all);
	p->nclients++;
}

void pool_read_client(struct pool *p, struct client *c)
{
	ssize_t n = recv(c->fd, c->buf + c->len, sizeof(c->buf) - c->len, MSG_DONTWAIT);
	char *nl;

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		c->gone = true;
		return;
	}
	c->len += (size_t)n;
	while (!c->gone && (nl = memchr(c->buf, '\n', c->len))) {
		const size_t k = (size_t)(nl - c->buf);

		ask(p, c, c->buf, k);
		c->len -= k + 1;
		memmove(c->buf, nl + 1, c->len);
	}
	if (c->len == sizeof(c->buf)) {
		client_error(c, "ERR_UNKNOWN", "", EMSGSIZE, "a line of more than 16384 bytes");
		c->gone = true;
	}
}

static void drop_client(struct pool *p, struct client *c)
{
	struct waiter *w, *next;

	for (w = TAILQ_FIRST(&p->waiters); w; w = next) {
		next = TAILQ_NEXT(w, queue);
		if (w->client == c)
			forget(p, w);
	}
	for (size_t i = 0; i < POOL_MEMBERS_MAX; i++)
		if (p->member[i] && p->member[i]->state == MEMBER_CLAIMED &&
		    p->member[i]->owner == c->number)
			member_reset(p->member[i], p->snapshot);
	TAILQ_REMOVE(&p->clients, c, all);
	p->nclients--;
	close(c->fd);
	free(c);
}

void pool_drop_gone(struct pool *p)
{
	struct client *c, *next;

	for (c = TAILQ_FIRST(&p->clients); c; c = next) {
		next = TAILQ_NEXT(c, all);
		if (c->gone)
			drop_client(p, c);
	}
}

void pool_drop_all(struct pool *p)
{
	struct client *c;

	while ((c = TAILQ_FIRST(&p->clients)))
		drop_client(p, c);
}

void pool_refuse_all(struct pool *p)
{
	struct waiter *w;

	while ((w = TAILQ_FIRST(&p->waiters)))
		refuse(p, w, ESHUTDOWN, "the pool is ending");
}
