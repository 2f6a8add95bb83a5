#include "runner/snapshot/prefault.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runner/snapshot/ws.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/clock.h"
#include "smfs/base/io.h"
#include "smfs/base/log.h"
#include "smfs/base/meminfo.h"
#include "smfs/base/num.h"

/* Since Linux 5.14. */
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ  22
#define MADV_POPULATE_WRITE 23
#endif

#define STEP (256u << 10) /* about 0.1 ms of copying */

/* Read-ahead is of whole frames of the store, so what lies between two pieces of one costs nothing.
 */
#define READ_AHEAD_GAP (65536 / WS_PAGE)

struct prefault {
	struct machine *m;
	enum prefault_policy policy;
	pthread_t thread;
	bool left; /* work for it */
	bool started;
	atomic_bool stop;
	_Atomic uint64_t read_pages, written_pages, us;
	_Atomic int state;

	/* The set, and what is next of it: of the pages only read, then of those written. */
	struct ws ws;
	bool writing;
	uint32_t range;
	uint64_t off;	      /* in the range, bytes */
	uint64_t copies_left; /* bytes */
	uint64_t ahead_us;
};

static const char *const policies[] = {
	[PREFAULT_WS] = "ws", [PREFAULT_NONE] = "none", [PREFAULT_ALL] = "all"};

bool prefault_policy_of(const char *text, enum prefault_policy *out)
{
	for (size_t i = 0; i < ARRAY_SIZE(policies); i++)
		if (strcmp(text, policies[i]) == 0) {
			*out = (enum prefault_policy)i;
			return true;
		}
	return false;
}

const char *prefault_policy_name(enum prefault_policy p)
{
	return policies[p];
}

const char *prefault_state_name(enum prefault_state s)
{
	static const char *const names[] = {
		[PREFAULT_OFF] = "off",		[PREFAULT_MISSING] = "missing",
		[PREFAULT_RUNNING] = "running", [PREFAULT_DONE] = "done",
		[PREFAULT_LIMIT] = "limit",	[PREFAULT_STOPPED] = "stopped",
		[PREFAULT_REFUSED] = "refused", [PREFAULT_FAILED] = "failed"};

	return names[s];
}

/* ---- the thread ---------------------------------------------------------------------------- */

static bool stopped(const struct prefault *p)
{
	return atomic_load(&p->stop) || atomic_load(&p->m->vm->end) != VM_RUNNING;
}

/* To the log, with nobody forking meanwhile. */
static void complain(struct prefault *p, const char *what)
{
	pthread_mutex_lock(&p->m->vm->dev_lock);
	log_warn("%s", what);
	pthread_mutex_unlock(&p->m->vm->dev_lock);
}

/* What of `ram`'s [off, off + *len) is in one region; *len shrinks to it. NULL: nothing. */
static uint8_t *part(const struct memory *m, uint64_t off, uint64_t *len)
{
	for (unsigned i = 0; i < m->n; i++) {
		const struct memory_region *r = &m->region[i];

		if (r->kind != MEMORY_RAM || off < r->file_off || off - r->file_off >= r->size)
			continue;
		*len = MIN(*len, r->size - (off - r->file_off));
		return r->hva + (off - r->file_off);
	}
	return NULL;
}

/* Up to STEP of [off, off + len): how much; 0 with p's state set: no more. */
static uint64_t populate_step(struct prefault *p, uint64_t off, uint64_t len, bool write)
{
	uint64_t n = MIN(len, STEP);
	uint8_t *hva = part(&p->m->vm->mem, off, &n);
	char what[128];

	if (!hva)
		return len;
	do {
		if (stopped(p)) {
			atomic_store(&p->state, PREFAULT_STOPPED);
			return 0;
		}
		if (madvise(hva, n, write ? MADV_POPULATE_WRITE : MADV_POPULATE_READ) == 0) {
			atomic_fetch_add(write ? &p->written_pages : &p->read_pages, n / WS_PAGE);
			return n;
		}
	} while (errno == EINTR || errno == EAGAIN);
	snprintf(what, sizeof(what), "prefault RAM at %#llx: %m; the rest is not",
		 (unsigned long long)off);
	atomic_store(&p->state, PREFAULT_FAILED);
	complain(p, what);
	return 0;
}

/* The copies that a range wants are too many: it and what follows get none. */
static bool past_limit(struct prefault *p, uint64_t len)
{
	if (!p->writing || p->off)
		return false;
	if (len > p->copies_left) {
		atomic_store(&p->state, PREFAULT_LIMIT);
		return true;
	}
	p->copies_left -= len;
	return false;
}

/* The rest of one range; 1: out of time, -1: no more. */
static int populate_range(struct prefault *p, const struct ws_range *r, uint64_t until_us)
{
	const uint64_t start = (uint64_t)r->page * WS_PAGE, len = (uint64_t)r->pages * WS_PAGE;

	do {
		const uint64_t n = populate_step(p, start + p->off, len - p->off, r->written);

		if (!n)
			return -1;
		p->off += n;
	} while (p->off < len && monotonic_us() < until_us);
	if (p->off < len)
		return 1;
	p->off = 0;
	return 0;
}

/* Goes on with the set. 0: it is done; 1: out of time, and to be called again; -1: no more. */
static int replay(struct prefault *p, uint64_t until_us)
{
	for (;; p->writing = true, p->range = 0) {
		for (; p->range < p->ws.n; p->range++) {
			const struct ws_range *r = &p->ws.range[p->range];
			int ret;

			if (r->written != p->writing)
				continue;
			if (monotonic_us() >= until_us)
				return 1;
			if (past_limit(p, (uint64_t)r->pages * WS_PAGE)) {
				p->range = p->ws.n;
				return 0;
			}
			ret = populate_range(p, r, until_us);
			if (ret)
				return ret;
		}
		if (p->writing)
			return 0;
	}
}

static void read_ahead(struct prefault *p)
{
	const struct ws *w = &p->ws;

	for (uint32_t i = 0, next; i < w->n && !stopped(p); i = next) {
		const uint64_t from = w->range[i].page;
		uint64_t to = from + w->range[i].pages;

		for (next = i + 1; next < w->n && w->range[next].page - to <= READ_AHEAD_GAP;
		     next++)
			to = (uint64_t)w->range[next].page + w->range[next].pages;
		/* What it cannot do the faults will. */
		(void)posix_fadvise(p->m->ram_fd, (off_t)(from * WS_PAGE),
				    (off_t)((to - from) * WS_PAGE), POSIX_FADV_WILLNEED);
	}
}

static int read_ws(struct prefault *p, int fd, struct err *err)
{
	cleanup_free uint8_t *buf = NULL;
	struct stat st;
	int ret;

	if (fstat(fd, &st) < 0)
		return err_errno(err, "stat ws");
	if (!S_ISREG(st.st_mode) || st.st_size > WS_FILE_MAX)
		return err_set(err, EBADMSG, "ws: no file of at most %u bytes", WS_FILE_MAX);
	buf = malloc((size_t)st.st_size + 1);
	if (!buf)
		return err_set(err, ENOMEM, "ws: out of memory");
	ret = read_full(fd, buf, (size_t)st.st_size);
	if (ret < 0)
		return err_set(err, -ret, "read ws: %s", strerror(-ret));
	return ws_decode(buf, (size_t)st.st_size, memory_ram_bytes(&p->m->vm->mem), &p->ws, err);
}

static void populate_data(struct prefault *p)
{
	off_t at = 0, data, hole;

	while ((data = lseek(p->m->ram_fd, at, SEEK_DATA)) >= 0) {
		hole = lseek(p->m->ram_fd, data, SEEK_HOLE);
		if (hole <= data)
			return;
		for (at = data; at < hole;) {
			const uint64_t n =
				populate_step(p, (uint64_t)at, (uint64_t)(hole - at), false);

			if (!n)
				return;
			at += (off_t)n;
		}
	}
}

static void finish(struct prefault *p)
{
	int running = PREFAULT_RUNNING;

	atomic_compare_exchange_strong(&p->state, &running, PREFAULT_DONE);
}

static void *prefault_main(void *arg)
{
	struct prefault *p = arg;

	prctl(PR_SET_NAME, "prefault");
	vm_await_guest(p->m->vm);
	const uint64_t start = monotonic_us();

	if (replay(p, UINT64_MAX) == 0 && p->policy == PREFAULT_ALL)
		populate_data(p);
	atomic_fetch_add(&p->us, monotonic_us() - start);
	finish(p);
	return NULL;
}

/* ---- its life ------------------------------------------------------------------------------ */

/* What the guest would want at once, before it runs. */
static void ahead(struct prefault *p, int ws_fd)
{
	const uint64_t start = monotonic_us();
	struct err err = ERR_INIT;

	if (read_ws(p, ws_fd, &err) < 0) {
		atomic_store(&p->state, PREFAULT_REFUSED);
		err_wrap(&err, -err.code, "the snapshot's working set is not used");
		complain(p, err.msg);
		return;
	}
	p->copies_left =
		MIN(MAX(p->ws.ram_bytes / 8, PREFAULT_COPIES_MIN), meminfo_available() / 4);
	/* From now on a page of our own need not be one that the guest has written. */
	p->m->ram_copied = true;
	read_ahead(p);
	const int ret = replay(p, start + PREFAULT_AHEAD_US);
	p->left = ret > 0 || (ret == 0 && p->left);
	p->ahead_us = MAX(monotonic_us() - start, (uint64_t)1);
	atomic_store(&p->us, p->ahead_us);
}

int prefault_new(struct machine *m, enum prefault_policy policy, int ws_fd, struct prefault **out,
		 struct err *err)
{
	cleanup_fd int ws = ws_fd;
	struct prefault *p = calloc(1, sizeof(*p));

	*out = p;
	if (!p)
		return err_set(err, ENOMEM, "prefault: out of memory");
	p->m = m;
	p->policy = policy;
	atomic_store(&p->state, policy == PREFAULT_NONE ? PREFAULT_OFF : PREFAULT_MISSING);
	if (policy == PREFAULT_NONE || m->ram_fd < 0 || (policy == PREFAULT_WS && ws < 0))
		return 0;
	atomic_store(&p->state, PREFAULT_RUNNING);
	p->left = policy == PREFAULT_ALL;
	if (ws >= 0)
		ahead(p, ws);
	if (!p->left)
		finish(p);
	return 0;
}

int prefault_start(struct prefault *p, struct err *err)
{
	sigset_t all, old;
	int ret;

	if (!p->left)
		return 0;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	ret = pthread_create(&p->thread, NULL, prefault_main, p);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	p->started = ret == 0;
	return ret ? err_set(err, ret, "start the prefault thread: %s", strerror(ret)) : 0;
}

void prefault_stats(const struct prefault *p, struct prefault_stats *out)
{
	*out = (struct prefault_stats){
		.state = (enum prefault_state)atomic_load(&p->state),
		.read_pages = atomic_load(&p->read_pages),
		.written_pages = atomic_load(&p->written_pages),
		.us = atomic_load(&p->us),
		.ahead_us = p->ahead_us,
	};
}

void prefault_stop(struct prefault *p)
{
	if (!p)
		return;
	atomic_store(&p->stop, true);
	if (p->started)
		pthread_join(p->thread, NULL);
	ws_free(&p->ws);
	free(p);
}
