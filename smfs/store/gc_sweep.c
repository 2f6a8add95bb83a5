/* Packs: how much of each is alive, and the removal of those where nothing is. */
#include "smfs/store/gc.h"

#include "smfs/base/cleanup.h"
#include "smfs/base/log.h"
#include "smfs/store/ingest.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#define SWEEP_BATCH 64u /* packs removed in one transaction: as many descriptors */

static struct pack_use *use_of(struct gc *g, uint64_t id)
{
	size_t lo = 0, hi = g->npacks;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (g->packs[mid].id == id)
			return &g->packs[mid];
		if (g->packs[mid].id < id)
			lo = mid + 1;
		else
			hi = mid;
	}
	return NULL;
}

/* After a collection that is only pretended. */
static bool stays(const struct gc *g, enum index_db db, const struct index_frame *f)
{
	if (db == INDEX_CONDEMNED)
		return f->gen > g->min_pin;
	return g->min_pin != UINT64_MAX || gc_is_marked(g, f->loc.kind, &f->id);
}

static int count_db(struct gc *g, enum index_db db, struct err *err)
{
	struct index_pos pos = {0};
	ssize_t n;

	while ((n = index_scan(g->s->ix, db, &pos, g->page, GC_BATCH, err)) > 0) {
		int r = gc_stopped(g, err);

		if (r < 0)
			return r;
		for (ssize_t i = 0; i < n; i++) {
			const struct index_frame *f = &g->page[i];
			struct pack_use *use = use_of(g, f->loc.pack);
			uint64_t bytes = frame_disk_len(f->loc.stored_len);

			if (g->dry && !stays(g, db, f))
				continue;
			if (db != INDEX_CONDEMNED) {
				g->out->live_frames++;
				g->out->live_bytes += bytes;
			}
			if (use) {
				use->live += bytes;
				use->frames++;
			}
		}
	}
	return (int)n;
}

/*
 * Lengths first, frames after: what a commit adds to a pack in between makes it longer than noted,
 * and gc_lock_pack() then leaves it alone. Without that a pack's count only ever falls, and by
 * nobody but the collector.
 */
int gc_count(struct gc *g, struct err *err)
{
	cleanup_free struct index_pack *v = NULL;
	int r = index_packs(g->s->ix, &v, &g->npacks, err);

	if (r < 0)
		return r;
	g->packs = calloc(g->npacks + 1, sizeof(*g->packs));
	if (!g->packs)
		return err_set(err, ENOMEM, "count what is in packs: out of memory");
	for (size_t i = 0; i < g->npacks; i++) /* in the order of their ids */
		g->packs[i] = (struct pack_use){.id = v[i].id, .len = v[i].len};
	g->out->packs = g->npacks;
	if ((r = count_db(g, INDEX_CHUNKS, err)) < 0 || (r = count_db(g, INDEX_NODES, err)) < 0)
		return r;
	return count_db(g, INDEX_CONDEMNED, err);
}

/* ---- removal ---- */

int gc_lock_pack(struct gc *g, struct pack_use *use, struct locked_pack *out, struct err *err)
{
	char name[PACK_NAME_LEN];
	uint64_t len;

	*out = (struct locked_pack){.use = use, .fd = -1};
	cleanup_fd int fd = openat(packs_dirfd(g->s->packs), pack_name(use->id, name),
				   O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0 && errno == ENOENT) {
		log_warn("pack %s is missing; run `smfs fsck`", name);
		return 0;
	}
	if (fd < 0)
		return err_errno(err, "open pack %s", name);
	if (flock(fd, LOCK_EX | LOCK_NB) < 0)
		return 0;
	int r = index_pack_len(g->s->ix, use->id, &len, err);
	if (r == 1 && len == use->len)
		out->fd = steal_fd(&fd);
	return r < 0 ? r : 0;
}

int gc_txn_drop(struct index_txn *txn, const struct locked_pack *p, struct index_pack *gone,
		struct err *err)
{
	*gone = (struct index_pack){.id = p->use->id, .len = 0};
	return index_txn_del_pack(txn, p->use->id, err);
}

void gc_erase_pack(struct gc *g, struct locked_pack *p)
{
	char name[PACK_NAME_LEN];
	struct stat st;

	packs_forget(g->s->packs, p->use->id);
	if (fstat(p->fd, &st) == 0)
		g->out->returned_bytes += (uint64_t)st.st_blocks * 512;
	/* Whoever still has it open holds no space. The next writer removes what a failure leaves.
	 */
	if (ftruncate(p->fd, 0) < 0 ||
	    unlinkat(packs_dirfd(g->s->packs), pack_name(p->use->id, name), 0) < 0)
		log_warn("remove pack %016" PRIx64 ": %m", p->use->id);
	close(p->fd);
	p->fd = -1;
}

struct sweep {
	struct gc *g;
	struct locked_pack v[SWEEP_BATCH];
	size_t n;
};

static int sweep_txn(struct index_txn *txn, void *arg, struct err *err)
{
	struct sweep *sw = arg;
	struct index_pack gone[SWEEP_BATCH];
	struct journal_record rec = {.packs = gone, .npacks = sw->n};
	struct index_meta m;
	int r = commit_next(txn, &m, err);

	for (size_t i = 0; i < sw->n && r == 0; i++)
		r = gc_txn_drop(txn, &sw->v[i], &gone[i], err);
	return r < 0 ? r : commit_record(sw->g->s, txn, &m, &rec, err);
}

static int sweep_some(struct sweep *sw, struct err *err)
{
	struct gc *g = sw->g;
	int r = sw->n ? gc_update(g, sweep_txn, sw, err) : 0;

	for (size_t i = 0; i < sw->n; i++) {
		if (r == 0) {
			gc_erase_pack(g, &sw->v[i]);
			g->out->packs_removed++;
		} else {
			close(sw->v[i].fd);
		}
	}
	sw->n = 0;
	return r;
}

int gc_sweep(struct gc *g, struct err *err)
{
	struct sweep sw = {.g = g};
	int r = 0;

	for (size_t i = 0; i < g->npacks && r == 0; i++) {
		struct pack_use *use = &g->packs[i];

		if (use->frames)
			continue;
		if (g->dry) {
			g->out->packs_removed++;
			g->out->returned_bytes += use->len;
			continue;
		}
		if ((r = gc_stopped(g, err)) < 0 ||
		    (r = gc_lock_pack(g, use, &sw.v[sw.n], err)) < 0)
			break;
		if (sw.v[sw.n].fd < 0) {
			g->out->packs_busy++;
			g->out->dead_bytes += use->len - PACK_HEAD_LEN;
		} else if (++sw.n == SWEEP_BATCH) {
			r = sweep_some(&sw, err);
		}
	}
	if (r == 0)
		return sweep_some(&sw, err);
	while (sw.n)
		close(sw.v[--sw.n].fd);
	return r;
}
