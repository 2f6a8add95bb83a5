/* An ingest's life, its pending table, and the way of one frame into a pack. */
#include "smfs/store/ingest.h"

#include "smfs/base/cleanup.h"
#include "smfs/store/dir.h"
#include "smfs/store/index_gc.h"
#include "smfs/store/lease.h"
#include "smfs/store/limit.h"
#include "smfs/store/quarantine.h"
#include "smfs/store/writers.h"

#include <string.h>

int smfs_ingest_begin(struct smfs_store *s, struct smfs_ingest **out, struct err *err)
{
	if (s->rdonly)
		return err_set(err, EROFS, "ingest into %s: opened read-only", s->dir);
	int entered = writers_enter(s, err);
	if (entered < 0)
		return err_wrap(err, entered, "begin ingest");
	struct smfs_ingest *ing = calloc(1, sizeof(*ing));
	if (!ing) {
		writers_leave(s);
		return err_set(err, ENOMEM, "begin ingest: out of memory");
	}
	ing->s = s;
	quarantine_reload(s);
	pthread_mutex_init(&ing->lock, NULL);
	pthread_cond_init(&ing->settled, NULL);
	pthread_mutex_init(&ing->fail_lock, NULL);
	pthread_mutex_init(&ing->jobs_lock, NULL);
	pthread_mutex_init(&ing->budget_lock, NULL);
	pthread_mutex_init(&ing->notes_lock, NULL);
	page_index_follow(s->page_index);
	int r = lease_pin(s, &ing->pin, &ing->gc_gen, err);
	if (r == 0)
		r = packw_new(s, &ing->packw, err);
	if (r < 0) {
		smfs_ingest_abort(ing);
		return r;
	}
	*out = ing;
	return 0;
}

void smfs_ingest_abort(struct smfs_ingest *ing)
{
	if (!ing)
		return;
	ingest_free_jobs(ing);
	packw_free(ing->packw);
	lease_drop(ing->s, ing->pin);
	pthread_mutex_destroy(&ing->lock);
	pthread_cond_destroy(&ing->settled);
	pthread_mutex_destroy(&ing->fail_lock);
	pthread_mutex_destroy(&ing->jobs_lock);
	pthread_mutex_destroy(&ing->budget_lock);
	pthread_mutex_destroy(&ing->notes_lock);
	free(ing->notes);
	free(ing->pend);
	free(ing->slots);
	free(ing->staged);
	idset_free(&ing->refs);
	writers_leave(ing->s);
	free(ing);
}

void smfs_ingest_stat(struct smfs_ingest *ing, struct smfs_ingest_stat *out)
{
	*out = (struct smfs_ingest_stat){
		.logical_bytes = atomic_load(&ing->logical),
		.zero_bytes = atomic_load(&ing->zero),
		.dup_bytes = atomic_load(&ing->dup),
		.new_bytes = atomic_load(&ing->fresh),
		.stored_bytes = atomic_load(&ing->stored),
	};
}

int ingest_fail(struct smfs_ingest *ing, int r, const struct err *err)
{
	pthread_mutex_lock(&ing->fail_lock);
	if (!atomic_load(&ing->failed)) {
		ing->fail = *err;
		ing->fail.code = -r;
		atomic_store(&ing->failed, true);
	}
	pthread_mutex_unlock(&ing->fail_lock);
	/* Who waits for a frame that will not come looks again. */
	pthread_mutex_lock(&ing->lock);
	pthread_cond_broadcast(&ing->settled);
	pthread_mutex_unlock(&ing->lock);
	return r;
}

int ingest_check(struct smfs_ingest *ing, struct err *err)
{
	if (!atomic_load(&ing->failed))
		return 0;
	pthread_mutex_lock(&ing->fail_lock);
	if (err)
		*err = ing->fail;
	int r = -ing->fail.code;
	pthread_mutex_unlock(&ing->fail_lock);
	return r;
}

/* ---- pending table; the lock is held ---- */

static bool same_space(uint8_t a, uint8_t b)
{
	return (a == FRAME_CHUNK) == (b == FRAME_CHUNK);
}

static struct pend *pend_find(struct smfs_ingest *ing, uint8_t kind, const struct smfs_id *id)
{
	if (!ing->nslots)
		return NULL;
	for (size_t i = id_hash(id) & (ing->nslots - 1);; i = (i + 1) & (ing->nslots - 1)) {
		if (!ing->slots[i])
			return NULL;
		struct pend *p = &ing->pend[ing->slots[i] - 1];
		if (same_space(p->loc.kind, kind) && id_equal(&p->id, id))
			return p;
	}
}

static void slot_insert(struct smfs_ingest *ing, size_t index)
{
	size_t i = id_hash(&ing->pend[index].id) & (ing->nslots - 1);

	while (ing->slots[i])
		i = (i + 1) & (ing->nslots - 1);
	ing->slots[i] = (uint32_t)index + 1;
}

static int pend_grow(struct smfs_ingest *ing)
{
	size_t cap = ing->pend_cap ? ing->pend_cap * 2 : 256;

	if (cap > UINT32_MAX / 2)
		return -ENOMEM;
	struct pend *p = reallocarray(ing->pend, cap, sizeof(*p));
	if (!p)
		return -ENOMEM;
	ing->pend = p;
	uint32_t *slots = calloc(cap * 2, sizeof(*slots));
	if (!slots)
		return -ENOMEM;
	free(ing->slots);
	ing->slots = slots;
	ing->nslots = cap * 2;
	ing->pend_cap = cap;
	for (size_t i = 0; i < ing->npend; i++)
		slot_insert(ing, i);
	return 0;
}

/* 1 = this caller claimed the id, *index tells where; 0 = it is known already, *known is its frame.
 */
static int pend_claim(struct smfs_ingest *ing, uint8_t kind, const struct smfs_id *id, uint32_t len,
		      uint64_t logical, size_t *index, struct frame_loc *known)
{
	struct pend *p;
	int r = 0;

	pthread_mutex_lock(&ing->lock);
	if ((p = pend_find(ing, kind, id))) {
		*known = p->loc;
		goto out;
	}
	if (ing->npend == ing->pend_cap && (r = pend_grow(ing)) < 0)
		goto out;
	*index = ing->npend++;
	ing->pend[*index] =
		(struct pend){.id = *id, .loc.kind = kind, .loc.raw_len = len, .logical = logical};
	slot_insert(ing, *index);
	r = 1;
out:
	pthread_mutex_unlock(&ing->lock);
	return r;
}

static void pend_settle(struct smfs_ingest *ing, size_t index, enum pend_state state,
			const struct frame_loc *loc)
{
	pthread_mutex_lock(&ing->lock);
	ing->pend[index].state = state;
	if (loc)
		ing->pend[index].loc = *loc;
	pthread_cond_broadcast(&ing->settled);
	pthread_mutex_unlock(&ing->lock);
}

/* ---- frames ---- */

/* Before `len` bytes are written: within the store's limit, as far as was asked for? */
static int need_room(struct smfs_ingest *ing, uint64_t len, struct err *err)
{
	uint64_t budget;
	int r = 0;

	if (atomic_fetch_sub(&ing->budget, (int64_t)len) >= (int64_t)len)
		return 0;
	pthread_mutex_lock(&ing->budget_lock);
	/* Another thread may have asked meanwhile; then this one's part is taken from that. */
	if (atomic_load(&ing->budget) < 0) {
		r = limit_check(ing->s, len, atomic_load(&ing->stored), &budget, err);
		if (r == 0)
			atomic_store(&ing->budget, (int64_t)MIN(budget - len, (uint64_t)INT64_MAX));
	}
	pthread_mutex_unlock(&ing->budget_lock);
	return r;
}

static int write_frame(struct smfs_ingest *ing, uint8_t kind, const void *raw, uint32_t len,
		       const struct smfs_id *id, struct frame_loc *loc, struct err *err)
{
	struct scratch *sc = scratch_get(&ing->s->scratch);

	if (!sc)
		return err_set(err, ENOMEM, "compress: out of memory");
	size_t n = scratch_compress(sc, raw, len);
	struct frame_head h = {.kind = kind,
			       .codec = n ? CODEC_ZSTD : CODEC_RAW,
			       .raw_len = len,
			       .stored_len = n ? (uint32_t)n : len,
			       .id = *id};
	int r = need_room(ing, frame_disk_len(h.stored_len), err);
	if (r == 0)
		r = packw_append(ing->packw, &h, n ? sc->buf : raw, loc, err);
	scratch_put(&ing->s->scratch, sc);
	return r;
}

/* ---- frames that are there already ---- */

/* Where a frame is that this ingest has met, once it is known: 1, or 0 when it is not to be found.
 */
static int settled_loc(struct smfs_ingest *ing, uint8_t kind, const struct smfs_id *id,
		       struct frame_loc *loc, struct err *err)
{
	struct pend *p;

	pthread_mutex_lock(&ing->lock);
	/* Found anew each time: the table may have moved. */
	while ((p = pend_find(ing, kind, id)) && p->state == PEND_CLAIMED &&
	       !atomic_load(&ing->failed))
		pthread_cond_wait(&ing->settled, &ing->lock);
	bool written = p && p->state == PEND_WRITTEN;
	if (written)
		*loc = p->loc;
	pthread_mutex_unlock(&ing->lock);
	return written ? 1 : index_find_any(ing->s->ix, kind, id, loc, err);
}

int ingest_collision(const struct smfs_id *id, struct err *err)
{
	char hex[65];

	return err_set(err, EBADMSG,
		       "frame %.12s: two different contents have this id; nothing was stored",
		       smfs_id_hex(id, hex));
}

/*
 * An id was met again. What costs nothing is always compared; the bytes only where the store was
 * opened to (SMFS_COMPARE): it means reading and decompressing them.
 */
static int same_frame(struct smfs_ingest *ing, const struct frame_loc *known, uint8_t kind,
		      const void *raw, uint32_t len, const struct smfs_id *id, struct err *err)
{
	struct frame_loc loc;

	if (known->kind != kind || known->raw_len != len)
		return ingest_collision(id, err);
	if (!ing->s->compare)
		return 0;
	int r = settled_loc(ing, kind, id, &loc, err);
	/* 0: who was to write it failed, and so has the ingest. */
	if (r <= 0)
		return r;
	if (loc.raw_len != len)
		return ingest_collision(id, err);
	cleanup_free uint8_t *have = malloc(len);
	if (!have)
		return err_set(err, ENOMEM, "compare with frame: out of memory");
	r = object_read_at(ing->s, &loc, id, false, have, err);
	return r < 0 ? r : memcmp(have, raw, len) == 0 ? 0 : ingest_collision(id, err);
}

/* 1 = the index has it, sound as far as anyone knows: a damaged copy is none. */
static int find_sound(struct smfs_ingest *ing, uint8_t kind, const struct smfs_id *id,
		      struct frame_loc *loc, struct err *err)
{
	int r = index_find(ing->s->ix, kind, id, loc, err);

	return r == 1 && quarantine_has(ing->s, id, loc) ? 0 : r;
}

/* `found`: where the index has it, or NULL for yet to be looked up. */
static int put(struct smfs_ingest *ing, uint8_t kind, const void *raw, uint32_t len,
	       uint64_t logical, const struct smfs_id *id, const struct frame_loc *found,
	       struct err *err)
{
	struct frame_loc loc;
	size_t index;
	int r;

	r = pend_claim(ing, kind, id, len, logical, &index, &loc);
	if (r < 0)
		return err_set(err, ENOMEM, "ingest: out of memory");
	if (r == 1) {
		if (found)
			loc = *found;
		r = found ? 1 : find_sound(ing, kind, id, &loc, err);
		if (r < 0)
			return r;
		if (r == 0) {
			r = write_frame(ing, kind, raw, len, id, &loc, err);
			if (r < 0)
				return r;
			pend_settle(ing, index, PEND_WRITTEN, &loc);
			if (kind == FRAME_CHUNK)
				atomic_fetch_add(&ing->fresh, len);
			atomic_fetch_add(&ing->stored, frame_disk_len(loc.stored_len));
			return 0;
		}
		pend_settle(ing, index, PEND_INDEXED, NULL);
	}
	r = same_frame(ing, &loc, kind, raw, len, id, err);
	if (r == 0 && kind == FRAME_CHUNK)
		atomic_fetch_add(&ing->dup, len);
	return r;
}

static int put_or_fail(struct smfs_ingest *ing, uint8_t kind, const void *raw, uint32_t len,
		       uint64_t logical, const struct smfs_id *id, const struct frame_loc *found,
		       struct err *err)
{
	struct err local = ERR_INIT;
	int r = ingest_check(ing, err);

	if (r < 0)
		return r;
	r = put(ing, kind, raw, len, logical, id, found, &local);
	if (r < 0) {
		ingest_fail(ing, r, &local);
		if (err)
			*err = local;
	}
	return r;
}

int ingest_put(struct smfs_ingest *ing, uint8_t kind, const void *raw, uint32_t len,
	       uint64_t logical, struct smfs_id *id, struct err *err)
{
	frame_id(kind, raw, len, id);
	return put_or_fail(ing, kind, raw, len, logical, id, NULL, err);
}

int ingest_put_chunk(struct smfs_ingest *ing, const void *raw, uint32_t len,
		     const struct smfs_id *id, const struct frame_loc *found, struct err *err)
{
	return put_or_fail(ing, FRAME_CHUNK, raw, len, 0, id, found, err);
}

int ingest_claim_frame(struct smfs_ingest *ing, const struct frame_head *h, uint64_t note,
		       size_t *claim, struct err *err)
{
	struct frame_loc known;
	char hex[65];
	int r = ingest_check(ing, err);

	if (r < 0)
		return r;
	r = pend_claim(ing, h->kind, &h->id, h->raw_len, note, claim, &known);
	if (r < 0)
		return err_set(err, ENOMEM, "ingest: out of memory");
	return r == 1 ? 0
		      : err_set(err, EBADMSG, "frame %.12s: comes twice", smfs_id_hex(&h->id, hex));
}

int ingest_put_frame(struct smfs_ingest *ing, size_t claim, const struct frame_head *h,
		     const void *payload, struct err *err)
{
	struct frame_head head = *h;
	struct err local = ERR_INIT;
	struct frame_loc loc;
	int r = index_find(ing->s->ix, h->kind, &h->id, &loc, &local);

	if (r == 1 && loc.raw_len != h->raw_len)
		r = ingest_collision(&h->id, &local);
	/* A damaged copy is none. */
	if (r == 1 && quarantine_has(ing->s, &h->id, &loc))
		r = 0;
	if (r == 1) {
		pend_settle(ing, claim, PEND_INDEXED, NULL);
		if (h->kind == FRAME_CHUNK)
			atomic_fetch_add(&ing->dup, h->raw_len);
		return 0;
	}
	if (r == 0)
		r = need_room(ing, frame_disk_len(h->stored_len), &local);
	if (r == 0)
		r = packw_append(ing->packw, &head, payload, &loc, &local);
	if (r < 0) {
		if (err)
			*err = local;
		return ingest_fail(ing, r, &local);
	}
	pend_settle(ing, claim, PEND_WRITTEN, &loc);
	if (h->kind == FRAME_CHUNK)
		atomic_fetch_add(&ing->fresh, h->raw_len);
	atomic_fetch_add(&ing->stored, frame_disk_len(loc.stored_len));
	return 0;
}

/* ---- references ---- */

int ingest_find_frame(struct smfs_ingest *ing, uint8_t kind, const struct smfs_id *id,
		      uint32_t *raw_len, uint64_t *note, bool *own, struct err *err)
{
	struct frame_loc loc;

	pthread_mutex_lock(&ing->lock);
	struct pend *p = pend_find(ing, kind, id);
	*own = p && p->loc.kind == kind;
	if (*own) {
		*raw_len = p->loc.raw_len;
		*note = p->logical;
	}
	pthread_mutex_unlock(&ing->lock);
	if (*own)
		return 1;
	int r = index_find_any(ing->s->ix, kind, id, &loc, err);
	if (r == 1)
		*raw_len = loc.raw_len;
	return r;
}

/* 1 = known to this ingest, *logical filled for a directory; 0 = not. */
static int pend_has(struct smfs_ingest *ing, uint8_t kind, const struct smfs_id *id,
		    uint64_t *logical)
{
	pthread_mutex_lock(&ing->lock);
	struct pend *p = pend_find(ing, kind, id);
	bool yes = p && p->loc.kind == kind;
	if (yes && logical)
		*logical = p->logical;
	pthread_mutex_unlock(&ing->lock);
	return yes;
}

int ingest_find_chunk(struct smfs_ingest *ing, const struct smfs_id *id, struct frame_loc *loc)
{
	return pend_has(ing, FRAME_CHUNK, id, NULL)
		       ? 2
		       : MAX(find_sound(ing, FRAME_CHUNK, id, loc, NULL), 0);
}

int ingest_chunk_loc(struct smfs_ingest *ing, const struct smfs_id *id, struct frame_loc *loc)
{
	return settled_loc(ing, FRAME_CHUNK, id, loc, NULL);
}

bool ingest_written(struct smfs_ingest *ing, uint8_t kind, const struct smfs_id *id,
		    struct frame_loc *loc)
{
	pthread_mutex_lock(&ing->lock);
	const struct pend *p = pend_find(ing, kind, id);
	bool yes = p && p->state == PEND_WRITTEN;
	if (yes)
		*loc = p->loc;
	pthread_mutex_unlock(&ing->lock);
	return yes;
}

int ingest_has_content(struct smfs_ingest *ing, const struct smfs_content *c, struct err *err)
{
	uint8_t kind = c->kind == SMFS_MAP ? FRAME_MAP : FRAME_CHUNK;
	struct frame_loc loc;
	char hex[65];

	if (c->kind == SMFS_ZERO || pend_has(ing, kind, &c->id, NULL))
		return 0;
	int r = index_find_any(ing->s->ix, kind, &c->id, &loc, err);
	if (r == 0)
		return err_set(err, EINVAL, "content %.12s: not in the store nor in this ingest",
			       smfs_id_hex(&c->id, hex));
	return r < 0 ? r : ingest_refer(ing, kind, &c->id, c->depth, err);
}

int ingest_has_dir(struct smfs_ingest *ing, const struct smfs_id *id, uint64_t *logical,
		   struct err *err)
{
	cleanup_free uint8_t *raw = NULL;
	struct frame_loc loc;
	char hex[65];
	size_t len;

	if (pend_has(ing, FRAME_DIR, id, logical))
		return 0;
	int r = index_find_any(ing->s->ix, FRAME_DIR, id, &loc, err);
	if (r == 0)
		return err_set(err, EINVAL, "directory %.12s: not in the store nor in this ingest",
			       smfs_id_hex(id, hex));
	if (r > 0)
		r = object_dir(ing->s, id, &raw, &len, err);
	if (r == 0)
		r = dir_logical(raw, len, logical, err);
	return r < 0 ? r : ingest_refer(ing, FRAME_DIR, id, 0, err);
}
