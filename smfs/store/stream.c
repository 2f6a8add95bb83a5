#include "smfs/store/stream.h"

#include "smfs/base/workers.h"
#include "smfs/store/zero.h"

#include <stdlib.h>
#include <string.h>

/* ---- jobs ---- */

static struct job *job_get(struct smfs_ingest *ing)
{
	pthread_mutex_lock(&ing->jobs_lock);
	struct job *j = ing->free_jobs;
	if (j)
		ing->free_jobs = j->next;
	pthread_mutex_unlock(&ing->jobs_lock);
	return j ? j : calloc(1, sizeof(*j));
}

static void job_put(struct smfs_ingest *ing, struct job *j)
{
	if (!j)
		return;
	j->n = 0;
	j->bytes = j->used = 0;
	if (j->pages)
		j->pages->nlooks = j->pages->npacks = 0;
	pthread_mutex_lock(&ing->jobs_lock);
	j->next = ing->free_jobs;
	ing->free_jobs = j;
	pthread_mutex_unlock(&ing->jobs_lock);
}

void ingest_free_jobs(struct smfs_ingest *ing)
{
	struct job *j;

	while ((j = ing->free_jobs)) {
		ing->free_jobs = j->next;
		free(j->buf);
		free(j->pages);
		free(j);
	}
}

/*
 * Plans are made in the order of the jobs. Jobs are begun in the order they were submitted, so
 * whoever waits here waits for one that has begun and itself waits, if at all, for an earlier one
 * only.
 */
static void run_pieces(struct smfs_stream *st, struct job *j)
{
	pieces_look(st, j);
	pthread_mutex_lock(&st->lock);
	while (st->planned != j->number)
		pthread_cond_wait(&st->changed, &st->lock);
	pthread_mutex_unlock(&st->lock);
	pieces_plan(st, j);
	pthread_mutex_lock(&st->lock);
	st->planned++;
	pthread_cond_broadcast(&st->changed);
	pthread_mutex_unlock(&st->lock);
	pieces_run(st, j);
}

static void run_job(void *arg)
{
	struct job *j = arg;
	struct smfs_stream *st = j->st;

	run_pieces(st, j);
	job_put(st->ing, j);
	/* The stream may be freed as soon as the lock is released with `running` at 0. */
	pthread_mutex_lock(&st->lock);
	if (--st->running == 0)
		pthread_cond_broadcast(&st->changed);
	pthread_mutex_unlock(&st->lock);
}

static int submit(struct smfs_stream *st, struct err *err)
{
	struct workers *w;
	struct job *j = st->job;
	int r = ingest_check(st->ing, err);

	if (r < 0 || !j || !j->n)
		return r;
	r = store_workers(st->ing->s, &w, err);
	if (r < 0)
		return r;
	st->job = NULL;
	j->st = st;
	j->number = st->jobs++;
	j->alone = false;
	pthread_mutex_lock(&st->lock);
	st->running++;
	pthread_mutex_unlock(&st->lock);
	workers_submit(w, run_job, j);
	return 0;
}

static void wait_idle(struct smfs_stream *st)
{
	pthread_mutex_lock(&st->lock);
	while (st->running)
		pthread_cond_wait(&st->changed, &st->lock);
	pthread_mutex_unlock(&st->lock);
}

/* ---- chunks ---- */

static int need_job(struct smfs_stream *st, bool buffer, struct err *err)
{
	struct job *j = st->job;

	/* Between chunks only: a chunk begun in a buffer ends in it. */
	if (j && st->fill == 0 &&
	    (j->n == JOB_PIECES || j->bytes + FRAME_SIZE > JOB_BYTES ||
	     (buffer && j->used + FRAME_SIZE > JOB_BYTES))) {
		int r = submit(st, err);

		if (r < 0)
			return r;
	}
	if (!st->job && !(st->job = job_get(st->ing)))
		return err_set(err, ENOMEM, "ingest: out of memory");
	j = st->job;
	if (buffer && !j->buf && !(j->buf = malloc(JOB_BYTES)))
		return err_set(err, ENOMEM, "ingest: out of memory");
	return 0;
}

/*
 * A chunk across two spans is an extent of both leaves. Its id must be known when the first is
 * left, so it is stored here and now; only files with cuts have any, one in LEAF_SPAN at most.
 */
static int emit_across(struct smfs_stream *st, const uint8_t *p, uint32_t len, uint32_t head,
		       struct err *err)
{
	struct slot *slot;
	struct smfs_id id;
	uint32_t n = len;
	int r = piece_store(st->ing, p, &n, &id, err);

	if (r < 0 || n == 0)
		return r;
	r = leaf_add(st, st->start, &slot, err);
	if (r < 0)
		return r;
	slot->e.len = MIN(n, head);
	slot->e.id = id;
	if (n <= head)
		return 0;
	r = leaf_add(st, st->start + head, &slot, err);
	if (r < 0)
		return r;
	slot->e.len = n - head;
	slot->e.chunk_off = head;
	slot->e.id = id;
	return 0;
}

/* A chunk within a span, for the workers. */
static int emit_piece(struct smfs_stream *st, const uint8_t *p, uint32_t len, struct err *err)
{
	struct job *j = st->job;
	struct piece *pc = &j->piece[j->n];

	*pc = (struct piece){.p = p, .len = len, .off = (uint32_t)(st->start % LEAF_SPAN)};
	int r = leaf_add(st, st->start, &pc->slot, err);
	if (r < 0)
		return r;
	pc->leaf = st->leaf;
	atomic_fetch_add(&st->leaf->refs, 1);
	j->n++;
	j->bytes += len;
	return 0;
}

/* One whole chunk at `p`, which stays as it is until the job has run. */
static int emit(struct smfs_stream *st, const uint8_t *p, uint32_t len, struct err *err)
{
	uint64_t head = LEAF_SPAN - st->start % LEAF_SPAN;
	int r = len > head ? emit_across(st, p, len, (uint32_t)head, err)
			   : emit_piece(st, p, len, err);

	st->start += len;
	st->chunks++;
	return r;
}

/* The chunk in the buffer is complete. */
static int emit_filled(struct smfs_stream *st, struct err *err)
{
	struct job *j = st->job;
	uint32_t len = st->fill;

	st->fill = 0;
	int r = emit(st, j->buf + j->used, len, err);
	j->used += align_up(len, 64);
	return r;
}

int stream_chunk(struct smfs_stream *st, const uint8_t *p, uint32_t len, struct err *err)
{
	int r = need_job(st, true, err);

	if (r < 0)
		return r;
	memcpy(st->job->buf + st->job->used, p, len);
	st->fill = len;
	return emit_filled(st, err);
}

int stream_pack(struct smfs_stream *st, const uint8_t *p, uint32_t len, const struct place *places,
		unsigned n, struct err *err)
{
	struct place *packed = reallocarray(NULL, n, sizeof(*packed));
	int r = packed ? need_job(st, true, err) : err_set(err, ENOMEM, "ingest: out of memory");

	if (r < 0) {
		for (unsigned i = 0; i < n; i++)
			leaf_put(places[i].leaf);
		free(packed);
		return r;
	}
	memcpy(packed, places, n * sizeof(*packed));
	struct job *j = st->job;
	uint8_t *to = j->buf + j->used;
	memcpy(to, p, len);
	j->piece[j->n++] = (struct piece){.p = to, .len = len, .packed = packed, .npacked = n};
	j->bytes += len;
	j->used += align_up(len, 64);
	return 0;
}

int stream_grow(struct smfs_stream *st, uint64_t len, struct err *err)
{
	uint32_t held = st->diff ? diff_held(st) : st->fill;

	if (!range_ok(st->start + held, len, FILE_SIZE_MAX))
		return err_set(err, EFBIG, "file larger than 64 PiB");
	atomic_fetch_add(&st->ing->logical, len);
	return 0;
}

int stream_room(struct smfs_stream *st, uint8_t **p, size_t *len, struct err *err)
{
	if (st->diff) {
		diff_room(st, p, len);
		return 0;
	}
	int r = need_job(st, true, err);

	if (r < 0)
		return r;
	*p = st->job->buf + st->job->used + st->fill;
	*len = FRAME_SIZE - st->fill;
	return 0;
}

static int filled(struct smfs_stream *st, size_t len, struct err *err)
{
	st->fill += (uint32_t)len;
	return st->fill == FRAME_SIZE ? emit_filled(st, err) : 0;
}

int stream_filled(struct smfs_stream *st, size_t len, struct err *err)
{
	int r = stream_grow(st, len, err);

	if (r < 0)
		return r;
	return st->diff ? diff_filled(st, len, err) : filled(st, len, err);
}

void stream_skip(struct smfs_stream *st, uint64_t len)
{
	st->start += len;
	st->chunks += (len + FRAME_SIZE - 1) / FRAME_SIZE;
	atomic_fetch_add(&st->ing->zero, len);
}

/* ---- the public calls ---- */

int smfs_stream_open(struct smfs_ingest *ing, unsigned flags, struct smfs_stream **out,
		     struct err *err)
{
	int r = ingest_check(ing, err);

	if (r < 0)
		return r;
	struct smfs_stream *st = calloc(1, sizeof(*st));
	if (!st)
		return err_set(err, ENOMEM, "open stream: out of memory");
	st->ing = ing;
	st->stable = flags & SMFS_STREAM_STABLE;
	pthread_mutex_init(&st->lock, NULL);
	pthread_cond_init(&st->changed, NULL);
	*out = st;
	return 0;
}

static int write_whole(struct smfs_stream *st, const uint8_t *p, struct err *err)
{
	uint8_t *room;
	size_t n;
	int r;

	if (zero_trim(p, FRAME_SIZE) == 0) {
		stream_skip(st, FRAME_SIZE);
		return 0;
	}
	if (st->stable) {
		r = need_job(st, false, err);
		return r < 0 ? r : emit(st, p, FRAME_SIZE, err);
	}
	r = stream_room(st, &room, &n, err);
	if (r < 0)
		return r;
	memcpy(room, p, FRAME_SIZE);
	return filled(st, FRAME_SIZE, err);
}

static int write_some(struct smfs_stream *st, const uint8_t *p, size_t len, struct err *err)
{
	uint8_t *room;
	size_t n;
	int r = ingest_check(st->ing, err);

	if (r == 0)
		r = stream_grow(st, len, err);
	if (r == 0 && st->diff)
		return diff_write(st, p, len, err);
	while (len && r == 0) {
		if (st->fill == 0 && len >= FRAME_SIZE) {
			n = FRAME_SIZE;
			r = write_whole(st, p, err);
		} else {
			r = stream_room(st, &room, &n, err);
			if (r < 0)
				break;
			n = MIN(n, len);
			memcpy(room, p, n);
			r = filled(st, n, err);
		}
		p += n;
		len -= n;
	}
	return r;
}

int smfs_stream_write(struct smfs_stream *st, const void *buf, size_t len, struct err *err)
{
	int r = write_some(st, buf, len, err);

	st->failed |= r < 0;
	return r;
}

static int write_hole(struct smfs_stream *st, uint64_t len, struct err *err)
{
	uint8_t *room;
	size_t n;
	int r = ingest_check(st->ing, err);

	if (r == 0)
		r = stream_grow(st, len, err);
	if (r == 0 && st->diff)
		return diff_hole(st, len, err);
	while (len && r == 0) {
		if (st->fill == 0 && len >= FRAME_SIZE) {
			uint64_t whole = align_down(len, FRAME_SIZE);

			stream_skip(st, whole);
			len -= whole;
			continue;
		}
		r = stream_room(st, &room, &n, err);
		if (r < 0)
			break;
		n = MIN(n, len);
		memset(room, 0, n);
		r = filled(st, n, err);
		len -= n;
	}
	return r;
}

int smfs_stream_hole(struct smfs_stream *st, uint64_t len, struct err *err)
{
	int r = write_hole(st, len, err);

	st->failed |= r < 0;
	return r;
}

int smfs_stream_cut(struct smfs_stream *st, struct err *err)
{
	if (st->fill == 0)
		return 0;
	/* Bounds what a leaf can grow to, whatever the caller does. */
	if (st->leaf && st->leaf->index == st->start / LEAF_SPAN && st->leaf->nslots >= LEAF_CUTS)
		return 0;
	int r = emit_filled(st, err);
	st->failed |= r < 0;
	return r;
}

/* The whole file is one chunk, still in the job: no map. */
static int finish_single(struct smfs_stream *st, struct smfs_content *out, struct err *err)
{
	struct piece *pc = &st->job->piece[0];
	uint32_t len = pc->len;

	*out = (struct smfs_content){.size = len};
	st->job->n = 0;
	leaf_discard(pc->leaf);
	st->leaf = NULL;
	int r = piece_store(st->ing, pc->p, &len, &out->id, err);
	if (r == 0 && len)
		out->kind = SMFS_CHUNK;
	return r;
}

static int finish(struct smfs_stream *st, struct smfs_content *out, struct err *err)
{
	int r = ingest_check(st->ing, err);

	if (r == 0 && st->failed)
		r = err_set(err, EIO, "finish stream: an earlier write to it failed");
	if (r == 0 && st->diff)
		r = diff_finish(st, err);
	else if (r == 0 && st->fill)
		r = emit_filled(st, err);
	if (r < 0)
		return r;
	if (!st->diff && st->chunks == 1 && st->job && st->job->n == 1)
		return finish_single(st, out, err);
	/* The last job is this thread's: it would only wait otherwise. */
	if (st->job) {
		st->job->number = st->jobs++;
		st->job->alone = st->jobs == 1;
		run_pieces(st, st->job);
		st->job->n = 0;
	}
	if (st->leaf) {
		leaf_put(st->leaf);
		st->leaf = NULL;
	}
	wait_idle(st);
	r = ingest_check(st->ing, err);
	return r < 0 ? r : stream_root(st, out, err);
}

int smfs_stream_finish(struct smfs_stream *st, struct smfs_content *out, struct err *err)
{
	int r = finish(st, out, err);

	smfs_stream_abort(st);
	return r;
}

void smfs_stream_abort(struct smfs_stream *st)
{
	if (!st)
		return;
	atomic_store(&st->dropped, true);
	for (unsigned i = 0; st->job && i < st->job->n; i++)
		piece_drop(&st->job->piece[i]);
	if (st->leaf)
		leaf_put(st->leaf);
	wait_idle(st);
	diff_free(st);
	job_put(st->ing, st->job);
	pages_free(st->pages);
	free(st->sealed);
	pthread_mutex_destroy(&st->lock);
	pthread_cond_destroy(&st->changed);
	free(st);
}
