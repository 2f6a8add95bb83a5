/*
 * A pool between hostile clients and hostile workers. The input is what each of them says, in any
 * order, and when they go; lines that a real worker would say are among it. Whatever comes: each
 * claim is told a machine that nobody else has, and what is told to be released is.
 */
#include "runner/pool/pool_priv.h"
#include "smfs/base/bytes.h"
#include "smfs/base/log.h"
#include "tests/fuzz/fuzz_dir.h"

#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define CLIENTS 3
#define MEMBERS 2
#define PID	1000 /* of the first member; nobody is signalled */

struct ends {
	struct client *client[CLIENTS];
	int of_client[CLIENTS], of_member[MEMBERS];
	uint64_t held[MEMBERS]; /* the claim that was told to have it, 0: none */
};

static int pair(int *other)
{
	int s[2];

	must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, s) == 0);
	*other = s[1];
	return s[0];
}

static void add_client(struct pool *p, struct ends *e, unsigned i)
{
	struct client *c = malloc(sizeof(*c));

	must(c != NULL);
	memset(c, 0, offsetof(struct client, buf));
	c->fd = pair(&e->of_client[i]);
	c->number = ++p->last_client;
	p->nclients++;
	TAILQ_INSERT_TAIL(&p->clients, c, all);
	e->client[i] = c;
}

static void add_member(struct pool *p, struct ends *e, unsigned i)
{
	struct member *m = p->member[i] ? p->member[i] : malloc(sizeof(*m));

	must(m != NULL);
	memset(m, 0, offsetof(struct member, buf));
	m->fd = pair(&e->of_member[i]);
	m->pid = (pid_t)(PID + i);
	p->member[i] = m;
	e->held[i] = 0;
}

/* ---- what it says ---------------------------------------------------------------------------- */

static uint64_t number(const char *line, const char *key)
{
	const char *at = strstr(line, key);

	must(at != NULL);
	return strtoull(at + strlen(key), NULL, 10);
}

static void heard(struct ends *e, const char *line)
{
	if (!strncmp(line, "CLAIMED ", 8)) {
		const uint64_t i = number(line, " pid=") - PID;

		must(i < MEMBERS && !e->held[i]);
		e->held[i] = number(line, " claim=");
		must(e->held[i] != 0);
	} else if (!strncmp(line, "RELEASED ", 9)) {
		const uint64_t claim = number(line, " claim=");
		unsigned i = 0;

		while (i < MEMBERS && e->held[i] != claim)
			i++;
		must(i < MEMBERS);
		e->held[i] = 0;
	} else {
		/* LOST: of one that another has released, who has been told so first or last. */
		must(!strncmp(line, "ERR_", 4) || !strncmp(line, "STATUS ", 7) ||
		     !strncmp(line, "LOST ", 5));
	}
}

/* All of one client's lines; whole ones, since each is sent at once. */
static void hear(struct ends *e, unsigned i)
{
	static char text[1 << 20];
	ssize_t n = recv(e->of_client[i], text, sizeof(text) - 1, 0);

	if (n <= 0)
		return;
	text[n] = '\0';
	must(text[n - 1] == '\n');
	for (char *save, *line = strtok_r(text, "\n", &save); line;
	     line = strtok_r(NULL, "\n", &save))
		heard(e, line);
}

/* ---- what it is told --------------------------------------------------------------------------
 */

static void say_bytes(int fd, struct reader *r)
{
	const uint8_t n = get_u8(r);
	struct reader part = get_sub(r, r->left < n ? r->left : n);

	must(!part.left || send(fd, part.p, part.left, MSG_NOSIGNAL) >= 0 || errno == EPIPE);
}

static void say_known(int fd, uint8_t which, unsigned i)
{
	static const char *const lines[] = {"READY\n",
					    "HELLO 1 vm=%u dir=/run/%u\n",
					    "DONE 5 how=warm id=x\n",
					    "ENDED how=shutdown\n",
					    "ERR_RESTORE code=EIO machine=none no\n",
					    "PROGRESS elapsed_ms=1 copied_bytes=2\n",
					    "HELLO 1 vm=%u dir=\"/a b\\x01\"\n",
					    "READY\nHELLO 1 vm=%u dir=/x\nDONE 1 how=new\n"};
	char line[128];

	snprintf(line, sizeof(line), lines[which % 8], i, i);
	must(send(fd, line, strlen(line), MSG_NOSIGNAL) >= 0 || errno == EPIPE);
}

static void client_known(int fd, uint8_t which)
{
	static const char *const lines[] = {"CLAIM\n",
					    "CLAIM keep=1 id=a\n",
					    "RELEASE claim=%u\n",
					    "RELEASE vm=%u\n",
					    "STATUS\n",
					    "CLAIM\nCLAIM\n",
					    "CLAIM id=b\nRELEASE vm=0\n",
					    "CLAIM deadline_ms=1\n"};
	char line[64];

	snprintf(line, sizeof(line), lines[which % 8], which / 8u % 16);
	must(send(fd, line, strlen(line), MSG_NOSIGNAL) >= 0 || errno == EPIPE);
}

static void step(struct pool *p, struct ends *e, struct reader *r)
{
	const uint8_t op = get_u8(r);
	const unsigned c = op / 8 % CLIENTS, m = op / 8 % MEMBERS;
	struct waiter *w = TAILQ_FIRST(&p->waiters);

	switch (op % 8) {
	case 0:
		say_bytes(e->of_client[c], r);
		break;
	case 1:
	case 2:
		client_known(e->of_client[c], get_u8(r));
		break;
	case 3:
		say_bytes(e->of_member[m], r);
		break;
	case 4:
	case 5:
		say_known(e->of_member[m], get_u8(r), m);
		break;
	case 6:
		shutdown(op & 64 ? e->of_client[c] : e->of_member[m], SHUT_RDWR);
		break;
	default:
		if (w)
			w->deadline_us = 0;
		p->member[m]->since_us -= (uint64_t)op * 10000;
	}
	for (unsigned i = 0; i < MEMBERS; i++)
		member_read(p->member[i], p->snapshot);
	pool_serve_waiters(p);
	for (unsigned i = 0; i < CLIENTS; i++)
		pool_read_client(p, e->client[i]);
	pool_serve_waiters(p);
	pool_time_out_waiters(p);
}

static void check(struct pool *p, struct ends *e)
{
	unsigned waiting = 0;
	struct waiter *w;

	for (unsigned i = 0; i < CLIENTS; i++)
		hear(e, i);
	for (unsigned i = 0; i < CLIENTS; i++) {
		if (!e->client[i]->gone)
			continue;
		close(e->of_client[i]);
		e->client[i] = NULL;
	}
	pool_drop_gone(p);
	for (unsigned i = 0; i < CLIENTS; i++)
		if (!e->client[i])
			add_client(p, e, i);
	for (unsigned i = 0; i < MEMBERS; i++) {
		struct member *m = p->member[i];
		char said[65536];

		must(m->state != MEMBER_WARM || m->vm[0]);
		/* Of a client that is gone nobody knows what it has heard. */
		must(m->state == MEMBER_CLAIMED
			     ? m->claim && (!e->held[i] || m->claim == e->held[i])
			     : !m->claim || m->state == MEMBER_DEAD);
		if (m->state != MEMBER_CLAIMED)
			e->held[i] = 0;
		while (recv(e->of_member[i], said, sizeof(said), 0) > 0)
			;
		if (m->state != MEMBER_DEAD)
			continue;
		member_end(m, false);
		close(e->of_member[i]);
		add_member(p, e, i);
	}
	TAILQ_FOREACH (w, &p->waiters, queue)
		waiting++;
	must(waiting == p->nwaiting && p->nclients == CLIENTS);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct pool_config cfg = {
		.name = "fuzz", .max = MEMBERS, .acquire_ms = 1000000};
	struct pool *p = calloc(1, sizeof(*p));
	struct reader r = reader_of(data, size);
	struct ends e = {0};

	must(p != NULL);
	log_init("fuzz", LOG_ERR);
	p->cfg = &cfg;
	strcpy(p->snapshot, "/s p");
	TAILQ_INIT(&p->clients);
	TAILQ_INIT(&p->waiters);
	for (unsigned i = 0; i < MEMBERS; i++)
		add_member(p, &e, i);
	for (unsigned i = 0; i < CLIENTS; i++)
		add_client(p, &e, i);
	while (r.left) {
		step(p, &e, &r);
		check(p, &e);
	}
	pool_refuse_all(p);
	pool_drop_all(p);
	must(!p->nclients && !p->nwaiting);
	for (unsigned i = 0; i < MEMBERS; i++) {
		member_end(p->member[i], false);
		close(e.of_member[i]);
		free(p->member[i]);
	}
	for (unsigned i = 0; i < CLIENTS; i++)
		close(e.of_client[i]);
	free(p);
	return 0;
}
