/* A pool's clients and members without processes: what each is told, and what becomes of it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "runner/pool/pool_priv.h"

#define SNAPSHOT "/mnt/s"

/* A pool with one member and two clients; the other ends are the test's. */
struct fake {
	struct pool *p;
	struct member *m;
	int worker, client[2];
};

static const struct pool_config config = {.name = "t", .max = 1, .acquire_ms = 1000};

static struct client *add_client(struct pool *p, int *end)
{
	struct client *c = calloc(1, sizeof(*c));
	int pair[2];

	assert_non_null(c);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	c->fd = pair[0];
	*end = pair[1];
	c->number = ++p->last_client;
	p->nclients++;
	TAILQ_INSERT_TAIL(&p->clients, c, all);
	return c;
}

static int setup(void **state)
{
	struct fake *f = calloc(1, sizeof(*f));
	int pair[2];

	f->p = calloc(1, sizeof(*f->p));
	f->m = f->p->member[0] = calloc(1, sizeof(*f->m));
	f->p->cfg = &config;
	f->p->room.group_bytes = UINT64_MAX;
	strcpy(f->p->snapshot, SNAPSHOT);
	TAILQ_INIT(&f->p->clients);
	TAILQ_INIT(&f->p->waiters);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	f->m->fd = pair[0];
	f->worker = pair[1];
	add_client(f->p, &f->client[0]);
	add_client(f->p, &f->client[1]);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fake *f = *state;

	pool_drop_all(f->p);
	member_end(f->m, false);
	close(f->worker);
	close(f->client[0]);
	close(f->client[1]);
	free(f->m);
	free(f->p);
	free(f);
	return 0;
}

static const char *hear(int fd)
{
	static char text[65536];
	ssize_t n = recv(fd, text, sizeof(text) - 1, MSG_DONTWAIT);

	text[n > 0 ? n : 0] = '\0';
	return text;
}

static void worker_says(struct fake *f, const char *text)
{
	assert_int_equal(send(f->worker, text, strlen(text), 0), strlen(text));
	member_read(f->m, f->p->snapshot);
}

static void client_says(struct fake *f, unsigned i, const char *text)
{
	struct client *c = TAILQ_FIRST(&f->p->clients);

	assert_int_equal(send(f->client[i], text, strlen(text), 0), strlen(text));
	pool_read_client(f->p, i ? TAILQ_NEXT(c, all) : c);
}

static void make_warm(struct fake *f)
{
	worker_says(f, "READY\n");
	assert_string_equal(hear(f->worker), "HELLO 1\n");
	worker_says(f, "HELLO 1 program=x vm=0123456789ab dir=/run/x\n");
	assert_string_equal(hear(f->worker), "RESTORE " SNAPSHOT " deadline_ms=60000\n");
	worker_says(f, "DONE 5 how=new\n");
	assert_int_equal(f->m->state, MEMBER_WARM);
}

static void test_claim(void **state)
{
	struct fake *f = *state;

	make_warm(f);
	client_says(f, 0, "CLAIM id=a\n");
	assert_memory_equal(hear(f->client[0]), "CLAIMED claim=1 vm=0123456789ab dir=/run/x ", 43);
	/* In the order they came, whoever gives it back. */
	client_says(f, 1, "CLAIM id=b\n");
	client_says(f, 0, "CLAIM id=c\nRELEASE claim=1\n");
	assert_string_equal(hear(f->client[0]), "RELEASED claim=1\n");
	assert_string_equal(hear(f->worker), "RESTORE " SNAPSHOT " deadline_ms=60000\n");
	worker_says(f, "DONE 5 how=warm\n");
	pool_serve_waiters(f->p);
	assert_memory_equal(hear(f->client[1]), "CLAIMED claim=2 ", 16);
	assert_string_equal(hear(f->client[0]), "");
}

/* A machine can be claimed while it is warmed up; one that cannot be is not asked again. */
static void test_warm_up(void **state)
{
	struct fake *f = *state;

	make_warm(f);
	assert_true(f->m->cold);
	member_warm_up(f->m, "a b");
	assert_string_equal(hear(f->worker), "WARM_UP \"a b\" deadline_ms=10000\n");
	assert_true(f->m->warming && !f->m->cold);
	client_says(f, 0, "CLAIM\n");
	assert_memory_equal(hear(f->client[0]), "CLAIMED claim=1 ", 16);
	worker_says(f, "WARMED us=7\n");
	assert_int_equal(f->m->state, MEMBER_CLAIMED);
	assert_true(f->m->warmed && !f->m->warming && !f->m->warm_up_fails);
	client_says(f, 0, "RELEASE claim=1\n");
	worker_says(f, "DONE 5 how=warm\n");
	assert_true(f->m->cold);
	member_warm_up(f->m, "true");
	worker_says(f, "ERR_WARM_UP code=ECANCELED another request has come\n");
	assert_false(f->m->warming || f->m->warm_up_fails);
	worker_says(f, "ERR_WARM_UP code=ENOENT run true: No such file or directory\n");
	assert_int_equal(f->m->warm_up_fails, 1);
	worker_says(f, "ERR_WARM_UP code=EOPNOTSUPP this guest has no agent\n");
	assert_int_equal(f->m->warm_up_fails, MEMBER_WARM_UP_TRIES);
	assert_int_equal(f->m->state, MEMBER_WARM);
}

/* A claim whose client is gone costs no machine. */
static void test_gone(void **state)
{
	struct fake *f = *state;

	client_says(f, 0, "CLAIM\n");
	client_says(f, 1, "CLAIM id=b\n");
	assert_int_equal(f->p->nwaiting, 2);
	TAILQ_FIRST(&f->p->clients)->gone = true;
	make_warm(f);
	pool_serve_waiters(f->p);
	assert_memory_equal(hear(f->client[1]), "CLAIMED claim=1 ", 16);
	assert_int_equal(f->m->state, MEMBER_CLAIMED);
	assert_int_equal(f->p->count.claims, 1);
	assert_int_equal(f->p->nwaiting, 0);
	pool_drop_gone(f->p);
	assert_int_equal(f->p->nclients, 1);
	assert_string_equal(hear(f->worker), "");
}

/* Who does not read is dropped, and what it held is reset. */
static void test_deaf(void **state)
{
	struct fake *f = *state;

	make_warm(f);
	client_says(f, 0, "CLAIM\n");
	for (unsigned i = 0; i < 100000 && !TAILQ_FIRST(&f->p->clients)->gone; i++)
		client_says(f, 0, "STATUS\n");
	assert_true(TAILQ_FIRST(&f->p->clients)->gone);
	pool_drop_gone(f->p);
	assert_int_equal(f->p->nclients, 1);
	assert_int_equal(f->m->state, MEMBER_RESETTING);
	assert_string_equal(hear(f->worker), "RESTORE " SNAPSHOT " deadline_ms=60000\n");
}

/* A worker that tells of a machine before it has told which. */
static void test_early_done(void **state)
{
	struct fake *f = *state;

	worker_says(f, "READY\nDONE 1 how=new\n");
	assert_int_equal(f->m->state, MEMBER_DEAD);
	assert_int_equal(f->m->why.code, EPROTO);
}

/* One whose guest ends as soon as it runs would be reset for ever, and to no avail. */
static void test_ends_at_once(void **state)
{
	struct fake *f = *state;

	make_warm(f);
	f->m->since_us -= MEMBER_PROVEN_MS * 1000u;
	worker_says(f, "ENDED how=shutdown\n");
	assert_int_equal(f->m->state, MEMBER_RESETTING);
	assert_string_equal(hear(f->worker), "RESTORE " SNAPSHOT " deadline_ms=60000\n");
	worker_says(f, "DONE 5 how=rebuilt\nENDED how=shutdown\n");
	assert_int_equal(f->m->state, MEMBER_DEAD);
	assert_int_equal(f->m->why.code, ECHILD);
	assert_string_equal(f->m->why.msg, "ENDED how=shutdown");
}

/* Rather than to make the host swap. */
static void test_short_of_memory(void **state)
{
	struct fake *f = *state;
	struct pool_config cfg = config;

	make_warm(f);
	cfg.reserve_bytes = 1ull << 60;
	f->p->cfg = &cfg;
	client_says(f, 0, "CLAIM id=a\n");
	assert_memory_equal(hear(f->client[0]), "ERR_CLAIM id=a code=ENOMEM ", 27);
	assert_int_equal(f->m->state, MEMBER_WARM);
	assert_int_equal(f->p->count.refused, 1);
	/* The control group's, too. */
	cfg.reserve_bytes = 1000;
	f->p->room = (struct room){.group_bytes = 999};
	client_says(f, 0, "CLAIM id=b\n");
	assert_memory_equal(hear(f->client[0]), "ERR_CLAIM id=b code=ENOMEM ", 27);
	f->p->room.group_bytes = 1000;
	client_says(f, 0, "CLAIM id=c\n");
	assert_memory_equal(hear(f->client[0]), "CLAIMED claim=1 ", 16);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_claim, setup, teardown),
		cmocka_unit_test_setup_teardown(test_warm_up, setup, teardown),
		cmocka_unit_test_setup_teardown(test_gone, setup, teardown),
		cmocka_unit_test_setup_teardown(test_deaf, setup, teardown),
		cmocka_unit_test_setup_teardown(test_early_done, setup, teardown),
		cmocka_unit_test_setup_teardown(test_ends_at_once, setup, teardown),
		cmocka_unit_test_setup_teardown(test_short_of_memory, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
