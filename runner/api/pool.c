/* pool.c - smvm_pool_*: handles of pools, and the process that one is. */
#include "runner/api/pool.h"
#include "runner/api/handle.h"
#include "runner/control/forward.h"
#include "runner/control/publish.h"
#include "runner/pool/ask.h"
#include "runner/pool/pool.h"
#include "runner/worker/line.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/clock.h"
#include "smfs/base/num.h"

#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/random.h>

#define START_MS 20000
#define OPEN_MS	 10000
#define STOP_MS	 15000 /* longer than it gives its workers */

struct smvm_pool {
	char name[108]; /* or its socket's path */
	int spare;	/* a connection without a claim; -1 */
	/* Of smvm_pool_new(): what to start, and what runs. */
	bool ours;
	char snapshot[PATH_MAX], mount[PATH_MAX], warm_up[PATH_MAX];
	struct forward forward[FORWARD_MAX];
	unsigned nforwards;
	struct smvm_pool_options options; /* what it points to is the above */
	struct child child;
	int lifeline; /* the other end is the child's standard input: it lives as long; -1 */
};

static struct smvm_pool *handle(void)
{
	struct smvm_pool *pool = calloc(1, sizeof(*pool));

	if (pool) {
		pool->spare = pool->lifeline = -1;
		child_init(&pool->child);
	}
	return pool;
}

static int open_pool(const char *name, struct smvm_pool **out, struct err *err)
{
	struct smvm_pool *pool = handle();

	if (!pool)
		return err_set(err, ENOMEM, "open pool: out of memory");
	int r = pool->spare = pool_dial(name, OPEN_MS, err);
	if (r < 0) {
		smvm_pool_free(pool);
		return r;
	}
	snprintf(pool->name, sizeof(pool->name), "%s", name);
	*out = pool;
	return 0;
}

int smvm_pool_open(const char *name, struct smvm_pool **out, struct smvm_error *err)
{
	struct err e = ERR_INIT;
	int r = open_pool(name, out, &e);

	return api_error(err, &e, r < 0 ? r : 0);
}

const char *smvm_pool_name(const struct smvm_pool *pool)
{
	return pool->name;
}

/* ---- connections ---- */

int pool_connection(struct smvm_pool *pool, unsigned timeout_ms, struct err *err)
{
	struct pollfd p = {.fd = pool->spare, .events = POLLIN};

	/* Anything to read is not for this claim; usually it is the end. */
	if (pool->spare >= 0 && poll(&p, 1, 0) == 0)
		return steal_fd(&pool->spare);
	if (pool->spare >= 0)
		close(steal_fd(&pool->spare));
	if (pool->ours && !pool->child.pid)
		return err_set(err, ENOENT, "it has not been started");
	return pool_dial(pool->name, timeout_ms, err);
}

void pool_keep_connection(struct smvm_pool *pool, int fd)
{
	if (pool->spare >= 0)
		close(fd);
	else
		pool->spare = fd;
}

/* ---- start ---- */

static int copy(const char *what, const char *from, char *to, size_t size, struct err *err)
{
	const size_t n = from ? strlen(from) : 0;

	if (n >= size)
		return err_set(err, ENAMETOOLONG, "pool's %s: %zu bytes", what, n);
	memcpy(to, from ? from : "", n + 1);
	return 0;
}

static int take_options(const struct smvm_pool_options *in, struct smvm_pool *pool, struct err *err)
{
	struct smvm_pool_options *o = &pool->options;
	unsigned char random[8];
	int r = api_check_size("options", in->size, offsetof(struct smvm_pool_options, name),
			       sizeof(*o), err);

	if (r < 0)
		return r;
	memcpy(o, in, in->size);
	if (!o->snapshot || !o->snapshot[0])
		return err_set(err, EINVAL, "a pool is of a snapshot: none is named");
	if (!o->max)
		o->max = 4;
	if (o->max > POOL_MEMBERS_MAX || o->min > o->max)
		return err_set(err, EINVAL, "a pool of %u to %u machines: 0 to %d", o->min, o->max,
			       POOL_MEMBERS_MAX);
	r = copy("snapshot", o->snapshot, pool->snapshot, sizeof(pool->snapshot), err);
	if (r == 0)
		r = line_check_word("pool's snapshot", o->snapshot, err);
	if (r == 0)
		r = copy("mount", o->mount, pool->mount, sizeof(pool->mount), err);
	if (r == 0 && o->name) {
		r = pool_name_check(o->name, err);
		if (r == 0)
			r = copy("name", o->name, pool->name, sizeof(pool->name), err);
	} else if (r == 0) {
		if (getrandom(random, sizeof(random), 0) != sizeof(random))
			return err_errno(err, "name a pool");
		int n = snprintf(pool->name, sizeof(pool->name), "lib-");
		for (size_t i = 0; i < sizeof(random); i++)
			n += snprintf(pool->name + n, sizeof(pool->name) - (size_t)n, "%02x",
				      random[i]);
	}
	for (const char *const *p = o->publish; r == 0 && p && *p; p++)
		r = forward_add(*p, pool->forward, &pool->nforwards, err);
	if (r == 0)
		r = publish_check(pool->forward, pool->nforwards, o->max, err);
	if (r == 0)
		r = copy("warm_up", o->warm_up ? o->warm_up : POOL_WARM_UP, pool->warm_up,
			 sizeof(pool->warm_up), err);
	if (r == 0)
		r = line_check_word("pool's warm_up", pool->warm_up, err);
	o->name = o->snapshot = o->mount = o->warm_up = NULL;
	o->publish = NULL;
	return r;
}

int smvm_pool_new(const struct smvm_pool_options *options, struct smvm_pool **out,
		  struct smvm_error *err)
{
	struct err e = ERR_INIT;
	struct smvm_pool *pool = handle();
	int r = pool ? take_options(options, pool, &e)
		     : err_set(&e, ENOMEM, "new pool: out of memory");

	if (r < 0) {
		smvm_pool_free(pool);
	} else {
		pool->ours = true;
		*out = pool;
	}
	return api_error(err, &e, r);
}

static void command_line(const struct smvm_pool *pool, struct args *a)
{
	const struct smvm_pool_options *o = &pool->options;
	char text[FORWARD_TEXT_MAX];

	args_begin(a, "pool");
	args_add(a, "--end-with-stdin");
	args_option(a, "name", pool->name);
	args_option(a, "snapshot", pool->snapshot);
	args_option(a, "mount", pool->mount[0] ? pool->mount : NULL);
	args_option(a, "warm-up", pool->warm_up);
	args_add(a, "--min=%u", o->min);
	args_add(a, "--max=%u", o->max);
	if (o->idle_timeout_s)
		args_add(a, "--idle-timeout=%u", o->idle_timeout_s);
	if (o->vm_bytes)
		args_add(a, "--vm-memory=%" PRIu64, o->vm_bytes);
	if (o->reserve_bytes)
		args_add(a, "--reserve=%" PRIu64, o->reserve_bytes);
	for (unsigned i = 0; i < pool->nforwards; i++)
		args_option(a, "publish",
			    forward_text(&pool->forward[i], pool->forward[i].port, text));
}

/* It says one line when it takes claims; or it ends, and has said why. */
static int await_ready(struct smvm_pool *pool, int said, struct err *err)
{
	const uint64_t until = monotonic_us() + START_MS * 1000ull;
	char byte = 0;

	while (byte != '\n') {
		struct pollfd p[2] = {{.fd = said, .events = POLLIN},
				      {.fd = pool->child.log_fd, .events = POLLIN}};
		const uint64_t now = monotonic_us();

		if (now >= until)
			return err_set(err, ETIMEDOUT, "it has not come up in time");
		if (poll(p, 2, (int)((until - now) / 1000) + 1) < 0 && errno != EINTR)
			return err_errno(err, "wait for it");
		child_listen(&pool->child);
		if (!p[0].revents)
			continue;
		ssize_t n = read(said, &byte, 1);
		if (n < 0 && errno != EINTR && errno != EAGAIN)
			return err_errno(err, "listen to it");
		if (n == 0) {
			err_set(err, EPIPE, "it has ended at once");
			return child_last_words(&pool->child, -EPIPE, err);
		}
	}
	return 0;
}

static int stop(struct smvm_pool *pool, struct err *err)
{
	if (pool->spare >= 0)
		close(steal_fd(&pool->spare));
	if (pool->lifeline >= 0)
		close(steal_fd(&pool->lifeline));
	if (!pool->child.pid)
		return err_set(err, ENOTSUP, "pool %s: no process of this handle's", pool->name);
	child_end(&pool->child, STOP_MS);
	return 0;
}

static int start(struct smvm_pool *pool, struct err *err)
{
	cleanup_with(args_free) struct args a;
	int in[2], out[2];

	a.n = 0;
	if (pool->child.pid && child_ended(&pool->child))
		stop(pool, NULL);
	if (!pool->ours || pool->child.pid)
		return err_set(err, EALREADY, "it has a worker already");
	if (pipe2(in, O_CLOEXEC) < 0)
		return err_errno(err, "make a pipe");
	cleanup_fd int its_in = in[0];
	pool->lifeline = in[1];
	if (pipe2(out, O_CLOEXEC) < 0)
		return err_errno(err, "make a pipe");
	cleanup_fd int said = out[0];
	int its_out = out[1];
	command_line(pool, &a);
	int r = child_spawn(&pool->child, &a, its_in, its_out, err);
	close(its_out); /* so that its end is the end of what it says */
	return r < 0 ? r : await_ready(pool, said, err);
}

int smvm_pool_start(struct smvm_pool *pool, struct smvm_error *err)
{
	struct err e = ERR_INIT;
	int r = start(pool, &e);

	if (r < 0) {
		if (r != -EALREADY)
			stop(pool, NULL);
		err_wrap(&e, r, "pool %s", pool->name);
	}
	return api_error(err, &e, r);
}

/* ---- status, end ---- */

static uint64_t number(const json_t *j, const char *key)
{
	json_int_t v = json_integer_value(json_object_get(j, key));

	return v > 0 ? (uint64_t)v : 0;
}

static unsigned small(const json_t *j, const char *key)
{
	return (unsigned)MIN(number(j, key), (uint64_t)UINT32_MAX);
}

static int status(struct smvm_pool *pool, struct smvm_pool_status *out, struct err *err)
{
	const size_t size = out->size;
	json_t *j;

	int r = api_check_size("a status", size, offsetof(struct smvm_pool_status, claims),
			       sizeof(*out), err);
	if (r < 0)
		return r;
	r = pool_ask_status(pool->name, &j, err);
	if (r < 0)
		return r;
	struct smvm_pool_status s = {.size = size,
				     .min = small(j, "min"),
				     .max = small(j, "max"),
				     .ready = small(j, "warm"),
				     .coming = small(j, "coming"),
				     .claimed = small(j, "claimed"),
				     .waiting = small(j, "waiting"),
				     .short_of_memory = small(j, "short_of_memory"),
				     .claims = number(j, "claims"),
				     .released = number(j, "released"),
				     .refused = number(j, "refused"),
				     .timed_out = number(j, "timed_out"),
				     .lost = number(j, "lost"),
				     .started = number(j, "started"),
				     .died = number(j, "died")};
	const char *failure = json_string_value(json_object_get(j, "last_failure"));
	snprintf(s.last_failure, sizeof(s.last_failure), "%s", failure ? failure : "");
	json_decref(j);
	memcpy(out, &s, size);
	return 0;
}

int smvm_pool_status(struct smvm_pool *pool, struct smvm_pool_status *out, struct smvm_error *err)
{
	struct err e = ERR_INIT;

	return api_error(err, &e, status(pool, out, &e));
}

int smvm_pool_stop(struct smvm_pool *pool, struct smvm_error *err)
{
	struct err e = ERR_INIT;

	return api_error(err, &e, stop(pool, &e));
}

void smvm_pool_free(struct smvm_pool *pool)
{
	if (!pool)
		return;
	stop(pool, NULL);
	free(pool);
}
