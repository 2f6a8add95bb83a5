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

struct prefault {
	struct machine *m;
	enum prefault_policy policy;
	int ws_fd;
	pthread_t thread;
	bool started;
	atomic_bool stop;
	_Atomic uint64_t read_pages, written_pages, us;
	_Atomic int state;
	uint64_t copies_left; /* bytes */
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

/* 0, or 1 with p's state set: no more. */
static int populate(struct prefault *p, uint64_t off, uint64_t len, bool write)
{
	_Atomic uint64_t *count = write ? &p->written_pages : &p->read_pages;
	char what[128];

	for (uint64_t end = off + len, n; off < end; off += n) {
		n = MIN(end - off, STEP);
		uint8_t *hva = part(&p->m->vm->mem, off, &n);

		if (stopped(p)) {
			atomic_store(&p->state, PREFAULT_STOPPED);
			return 1;
		}
		if (!hva)
			return 0;
		if (madvise(hva, n, write ? MADV_POPULATE_WRITE : MADV_POPULATE_READ) < 0) {
			if (errno == EINTR || errno == EAGAIN) {
				n = 0;
				continue;
			}
			snprintf(what, sizeof(what), "prefault RAM at %#llx: %m; the rest is not",
				 (unsigned long long)off);
			atomic_store(&p->state, PREFAULT_FAILED);
			complain(p, what);
			return 1;
		}
		atomic_fetch_add(count, n / WS_PAGE);
	}
	return 0;
}

static int populate_ranges(struct prefault *p, const struct ws *w, bool written)
{
	for (uint32_t i = 0; i < w->n; i++) {
		const struct ws_range *r = &w->range[i];
		uint64_t len = (uint64_t)r->pages * WS_PAGE;

		if (r->written != written)
			continue;
		if (written) {
			if (len > p->copies_left) {
				atomic_store(&p->state, PREFAULT_LIMIT);
				return 0;
			}
			p->copies_left -= len;
		}
		if (populate(p, (uint64_t)r->page * WS_PAGE, len, written))
			return 1;
	}
	return 0;
}

static void read_ahead(struct prefault *p, const struct ws *w)
{
	for (uint32_t i = 0; i < w->n && !stopped(p); i++)
		/* What it cannot do the faults will. */
		(void)posix_fadvise(p->m->ram_fd, (off_t)w->range[i].page * WS_PAGE,
				    (off_t)w->range[i].pages * WS_PAGE, POSIX_FADV_WILLNEED);
}

static int read_ws(struct prefault *p, struct ws *w, struct err *err)
{
	cleanup_free uint8_t *buf = NULL;
	struct stat st;
	int ret;

	if (fstat(p->ws_fd, &st) < 0)
		return err_errno(err, "stat ws");
	if (!S_ISREG(st.st_mode) || st.st_size > WS_FILE_MAX)
		return err_set(err, EBADMSG, "ws: no file of at most %u bytes", WS_FILE_MAX);
	buf = malloc((size_t)st.st_size + 1);
	if (!buf)
		return err_set(err, ENOMEM, "ws: out of memory");
	ret = read_full(p->ws_fd, buf, (size_t)st.st_size);
	if (ret < 0)
		return err_set(err, -ret, "read ws: %s", strerror(-ret));
	return ws_decode(buf, (size_t)st.st_size, memory_ram_bytes(&p->m->vm->mem), w, err);
}

/* 0, or 1: no more. */
static int replay(struct prefault *p)
{
	struct err err = ERR_INIT;
	struct ws w;
	int ret;

	if (p->ws_fd < 0)
		return 0;
	const int unfit = read_ws(p, &w, &err);

	close(p->ws_fd);
	p->ws_fd = -1;
	if (unfit < 0) {
		atomic_store(&p->state, PREFAULT_REFUSED);
		err_wrap(&err, -err.code, "the snapshot's working set is not used");
		complain(p, err.msg);
		return 0;
	}
	p->copies_left = MIN(MAX(w.ram_bytes / 8, PREFAULT_COPIES_MIN), meminfo_available() / 4);
	read_ahead(p, &w);
	ret = populate_ranges(p, &w, true);
	if (ret == 0)
		ret = populate_ranges(p, &w, false);
	ws_free(&w);
	return ret;
}

static void populate_data(struct prefault *p)
{
	off_t at = 0, data, hole;

	while ((data = lseek(p->m->ram_fd, at, SEEK_DATA)) >= 0) {
		hole = lseek(p->m->ram_fd, data, SEEK_HOLE);
		if (hole <= data || populate(p, (uint64_t)data, (uint64_t)(hole - data), false))
			return;
		at = hole;
	}
}

static void *prefault_main(void *arg)
{
	struct prefault *p = arg;

	prctl(PR_SET_NAME, "prefault");
	vm_await_guest(p->m->vm);
	const uint64_t start = monotonic_us();

	if (replay(p) == 0 && p->policy == PREFAULT_ALL)
		populate_data(p);
	int running = PREFAULT_RUNNING;
	atomic_store(&p->us, MAX(monotonic_us() - start, (uint64_t)1));
	atomic_compare_exchange_strong(&p->state, &running, PREFAULT_DONE);
	return NULL;
}

/* ---- its life ------------------------------------------------------------------------------ */

int prefault_start(struct machine *m, enum prefault_policy policy, int ws_fd, struct prefault **out,
		   struct err *err)
{
	struct prefault *p = calloc(1, sizeof(*p));
	sigset_t all, old;
	int ret;

	*out = NULL;
	if (ws_fd >= 0 && (!p || policy == PREFAULT_NONE)) {
		close(ws_fd);
		ws_fd = -1;
	}
	if (!p)
		return err_set(err, ENOMEM, "prefault: out of memory");
	p->m = m;
	p->policy = policy;
	p->ws_fd = ws_fd;
	*out = p;
	atomic_store(&p->state, policy == PREFAULT_NONE ? PREFAULT_OFF : PREFAULT_MISSING);
	if (policy == PREFAULT_NONE || m->ram_fd < 0 || (policy == PREFAULT_WS && ws_fd < 0))
		return 0;
	/* From now on a page of our own need not be one that the guest has written. */
	m->ram_copied = ws_fd >= 0;
	atomic_store(&p->state, PREFAULT_RUNNING);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	ret = pthread_create(&p->thread, NULL, prefault_main, p);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	p->started = ret == 0;
	if (ret == 0)
		return 0;
	prefault_stop(p);
	*out = NULL;
	return err_set(err, ret, "start the prefault thread: %s", strerror(ret));
}

void prefault_stats(const struct prefault *p, struct prefault_stats *out)
{
	*out = (struct prefault_stats){
		.state = (enum prefault_state)atomic_load(&p->state),
		.read_pages = atomic_load(&p->read_pages),
		.written_pages = atomic_load(&p->written_pages),
		.us = atomic_load(&p->us),
	};
}

void prefault_stop(struct prefault *p)
{
	if (!p)
		return;
	atomic_store(&p->stop, true);
	if (p->started)
		pthread_join(p->thread, NULL);
	if (p->ws_fd >= 0)
		close(p->ws_fd);
	free(p);
}
