/*
 * The commit, and the other changes of names.
 *
 * ORDER. Each step is durable before the next begins to depend on it:
 *
 *   1. every frame is appended to this ingest's packs           (packw_append)
 *   2. fdatasync of the packs                                   (packw_sync)
 *   3. fsync of packs/, if a pack is new
 *   4. the index's write transaction begins: one commit at a time from here
 *   5. the journal record is written where the index says the journal ends, and synced
 *   6. the index commits, synchronously: frames, pack lengths, names, the journal's new length and
 *      the sequence number become visible together, or not at all
 *
 * Power lost before 6 leaves bytes past the lengths the index knows: the next writer of that pack
 * or of the journal cuts them off. Power lost after 6 loses nothing. The name is acknowledged
 * after 6 only. A record that reached the journal at 5 while 6 did not happen is complete and
 * true (its packs are synced); a rebuild from the journal may therefore bring back a
 * commit whose outcome its caller never learnt, but never half of one: before anything
 * is cut off a pack or a pack is removed that no commit ever counted, the journal is cut to its
 * recorded length, and synced (commit_settle).
 *
 * COLLECTION. The generation of the index tells whether garbage was condemned since the ingest
 * began (gc.h). If so, within the transaction each frame that the ingest found in the index, and
 * each below what it refers to, is looked up again and brought back if it was condemned. It is
 * still there: the ingest's pin keeps the collector from forgetting it. In the usual case, no
 * collection meanwhile, nothing of this is done.
 */
#include "smfs/store/ingest.h"

#include "smfs/base/cleanup.h"
#include "smfs/store/index_gc.h"
#include "smfs/store/limit.h"
#include "smfs/store/names_each.h"
#include "smfs/store/object.h"
#include "smfs/store/pending.h"
#include "smfs/store/quarantine.h"
#include "smfs/store/writers.h"

#include <string.h>
#include <sys/stat.h>

/* Of a name that smfs_name_check() passed, or that is in the index. */
static void copy_name(char out[SMFS_REF_MAX + 1], const char *name)
{
	snprintf(out, SMFS_REF_MAX + 1, "%s", name);
}

int smfs_ingest_name(struct smfs_ingest *ing, enum smfs_kind kind, const char *name,
		     const struct smfs_id *root, const struct smfs_entry *attr, unsigned flags,
		     struct err *err)
{
	struct staged st = {.kind = kind, .flags = flags};
	int r = ingest_check(ing, err);

	if (r < 0)
		return r;
	r = smfs_name_check(kind, name, err);
	if (r < 0)
		return r;
	copy_name(st.name, name);
	st.rec = (struct smfs_name){.kind = kind, .root = *root, .mode = 0755, .created = now_ns()};
	copy_name(st.rec.name, name);
	st.rec.mtime = st.rec.created;
	if (attr) {
		st.rec.mode = attr->mode & 07777;
		st.rec.uid = attr->uid;
		st.rec.gid = attr->gid;
		if (__builtin_mul_overflow(attr->mtime_sec, (int64_t)1000000000, &st.rec.mtime) ||
		    __builtin_add_overflow(st.rec.mtime, (int64_t)attr->mtime_nsec, &st.rec.mtime))
			st.rec.mtime = attr->mtime_sec < 0 ? INT64_MIN : INT64_MAX;
	}
	r = ingest_has_dir(ing, root, &st.rec.logical_bytes, err);
	if (r < 0)
		return err_wrap(err, r, "name %s", name);

	pthread_mutex_lock(&ing->lock);
	for (size_t i = 0; i < ing->nstaged && r == 0; i++)
		if (ing->staged[i].kind == kind && strcmp(ing->staged[i].name, name) == 0)
			r = err_set(err, EEXIST, "name %s: staged twice in one ingest", name);
	struct staged *v = r ? NULL : reallocarray(ing->staged, ing->nstaged + 1, sizeof(*v));
	if (v) {
		v[ing->nstaged++] = st;
		ing->staged = v;
	} else if (r == 0) {
		r = err_set(err, ENOMEM, "name %s: out of memory", name);
	}
	pthread_mutex_unlock(&ing->lock);
	return r;
}

int commit_record(struct smfs_store *s, struct index_txn *txn, struct index_meta *m,
		  struct journal_record *rec, struct err *err)
{
	rec->seq = m->seq;
	rec->time = now_ns();
	int r = journal_append(s->journalfd, &m->journal_len, rec, err);
	return r < 0 ? r : index_txn_set_meta(txn, m, err);
}

static int settle_txn(struct index_txn *txn, void *arg, struct err *err)
{
	struct smfs_store *s = arg;
	struct index_meta m;
	int r = index_txn_meta(txn, &m, err);

	if (r == 0)
		r = journal_cut(s->journalfd, MAX(m.journal_len, JOURNAL_HEAD_LEN), err);
	if (r == 0 && fdatasync(s->journalfd) < 0)
		r = err_errno(err, "sync journal");
	return r;
}

int commit_settle(struct smfs_store *s, struct err *err)
{
	struct index_meta m;
	struct stat st;
	int r = index_meta(s->ix, &m, err);

	if (r < 0)
		return r;
	/* The transaction waits for whoever is between record and index. */
	if (fstat(s->journalfd, &st) == 0 &&
	    (uint64_t)st.st_size <= MAX(m.journal_len, JOURNAL_HEAD_LEN))
		return 0;
	return index_update(s->ix, settle_txn, s, err);
}

int commit_next(struct index_txn *txn, struct index_meta *m, struct err *err)
{
	int r = index_txn_meta(txn, m, err);

	if (m->journal_len < JOURNAL_HEAD_LEN)
		m->journal_len = JOURNAL_HEAD_LEN;
	m->seq++;
	return r;
}

/* ---- commit ---- */

struct commit {
	struct smfs_ingest *ing;
	struct index_pack *packs;
	struct journal_change *changes;
	struct idset below; /* all that is referred to, once looked for */
	bool looked;
	size_t healed; /* by the transaction at work */
};

/* A result of commit_txn() beside errno's: look below the references first, then again. */
#define LOOK_BELOW (-4096)

static int by_id(const void *a, const void *b)
{
	return memcmp(((const struct pend *)a)->id.b, ((const struct pend *)b)->id.b, SMFS_ID_LEN);
}

static void count_frame(struct index_meta *m, const struct frame_loc *loc)
{
	if (loc->kind == FRAME_CHUNK) {
		m->chunk_raw += loc->raw_len;
		m->chunk_stored += frame_disk_len(loc->stored_len);
	} else {
		m->node_stored += frame_disk_len(loc->stored_len);
	}
}

static bool collected_since(const struct smfs_ingest *ing, const struct index_meta *m)
{
	return m->gc_gen != ing->gc_gen || m->gc_busy;
}

static int keep_found(struct index_txn *txn, struct index_meta *m, uint8_t kind,
		      const struct smfs_id *id, struct err *err)
{
	struct frame_loc loc;
	char hex[65];
	int r = index_txn_revive(txn, kind, id, &loc, err);

	if (r == 0)
		return err_set(err, ESTALE,
			       "frame %.12s, found in the store by this ingest, is gone; run "
			       "`smfs fsck`",
			       smfs_id_hex(id, hex));
	if (r == 2)
		count_frame(m, &loc);
	return r < 0 ? r : 0;
}

static int commit_found(struct commit *c, struct index_txn *txn, struct index_meta *m,
			struct err *err)
{
	struct smfs_ingest *ing = c->ing;
	int r = 0;

	if (!collected_since(ing, m))
		return 0;
	if (ing->refs.n && !c->looked)
		return LOOK_BELOW;
	for (size_t i = 0; i < ing->npend && r == 0; i++)
		if (ing->pend[i].state == PEND_INDEXED)
			r = keep_found(txn, m, ing->pend[i].loc.kind, &ing->pend[i].id, err);
	for (size_t i = 0; i < c->below.cap && r == 0; i++)
		if (c->below.v[i].kind)
			r = keep_found(txn, m, c->below.v[i].kind, &c->below.v[i].id, err);
	return r;
}

/* The frame is there already, damaged: ours takes its place, for every name that refers to it. */
#define HEALED 2
static int heal(struct commit *c, struct index_txn *txn, const struct pend *p, struct err *err)
{
	struct frame_loc bad;

	if (!quarantine_place(c->ing->s, p->loc.kind, &p->id, &bad))
		return 0;
	int r = index_txn_move(txn, &p->id, &bad, &p->loc, err);
	if (r <= 0)
		return r;
	c->healed++;
	return HEALED;
}

/* Another ingest has committed this id meanwhile: surely the same frame? */
static int same_as_committed(struct smfs_ingest *ing, const struct pend *p, struct err *err)
{
	struct frame_loc loc;
	int r = index_find_any(ing->s->ix, p->loc.kind, &p->id, &loc, err);

	if (r < 0)
		return r;
	if (r == 0 || loc.raw_len != p->loc.raw_len)
		return ingest_collision(&p->id, err);
	if (!ing->s->compare)
		return 0;
	cleanup_free uint8_t *ours = malloc(loc.raw_len), *theirs = malloc(loc.raw_len);
	if (!ours || !theirs)
		return err_set(err, ENOMEM, "compare with frame: out of memory");
	if ((r = object_read_at(ing->s, &loc, &p->id, false, theirs, err)) < 0 ||
	    (r = object_read_at(ing->s, &p->loc, &p->id, false, ours, err)) < 0)
		return r;
	return memcmp(ours, theirs, loc.raw_len) == 0 ? 0 : ingest_collision(&p->id, err);
}

static int commit_frames(struct commit *c, struct index_txn *txn, struct index_meta *m,
			 struct err *err)
{
	struct smfs_ingest *ing = c->ing;

	for (size_t i = 0; i < ing->npend; i++) {
		const struct pend *p = &ing->pend[i];

		if (p->state != PEND_WRITTEN)
			continue;
		int r = index_txn_add(txn, &p->id, &p->loc, err);
		if (r < 0)
			return r;
		if (r == 0 && (r = heal(c, txn, p, err)) < 0)
			return r;
		/* Another ingest may have committed the same frame meanwhile; ours is garbage then.
		 */
		if (r == 0 && (r = same_as_committed(ing, p, err)) < 0)
			return r;
		if (r == 0 || r == HEALED)
			continue;
		count_frame(m, &p->loc);
	}
	for (size_t i = 0; i < packw_count(ing->packw); i++) {
		int r = index_txn_set_pack(txn, c->packs[i].id, c->packs[i].len, err);

		if (r < 0)
			return r;
	}
	return 0;
}

static int name_taken(const struct staged *st, struct err *err)
{
	return err_set(err, EEXIST, "%s %s: name is taken", kind_word(st->kind), st->name);
}

static int commit_names(struct commit *c, struct index_txn *txn, struct index_meta *m,
			struct err *err)
{
	struct smfs_ingest *ing = c->ing;
	struct smfs_name old;

	for (size_t i = 0; i < ing->nstaged; i++) {
		struct staged *st = &ing->staged[i];
		int r = index_txn_name(txn, st->kind, st->name, &old, err);

		if (r < 0)
			return r;
		if (r == 1 && !(st->flags & SMFS_REPLACE))
			return name_taken(st, err);
		st->rec.seq = m->seq;
		r = index_txn_set_name(txn, &st->rec, err);
		if (r < 0)
			return r;
		c->changes[i] = (struct journal_change){.op = OP_PUBLISH, .name = st->rec};
	}
	return 0;
}

static int commit_txn(struct index_txn *txn, void *arg, struct err *err)
{
	struct commit *c = arg;
	struct index_meta m;
	int r;

	c->healed = 0;
	/* Names first: a taken one is found before any work. */
	if ((r = commit_next(txn, &m, err)) < 0 || (r = commit_names(c, txn, &m, err)) < 0 ||
	    (r = commit_found(c, txn, &m, err)) < 0 || (r = commit_frames(c, txn, &m, err)) < 0)
		return r;
	struct journal_record rec = {
		.packs = c->packs,
		.npacks = packw_count(c->ing->packw),
		.changes = c->changes,
		.nchanges = c->ing->nstaged,
	};
	r = commit_record(c->ing->s, txn, &m, &rec, err);
	/*
	 * From here on the frames stay, whatever is reported: a failed sync of the index may still
	 * have reached the disk, and then it refers to them.
	 */
	if (r == 0)
		packw_keep(c->ing->packw);
	return r;
}

/* Decided in the transaction; looked at here so that who comes too late does not sync first. */
static int names_free(struct smfs_ingest *ing, struct err *err)
{
	struct smfs_name old;

	for (size_t i = 0; i < ing->nstaged; i++) {
		const struct staged *st = &ing->staged[i];
		int r = st->flags & SMFS_REPLACE
				? 0
				: index_name(ing->s->ix, st->kind, st->name, &old, err);

		if (r == 1)
			return name_taken(st, err);
		if (r < 0)
			return r;
	}
	return 0;
}

/* What a frame takes in the index, half-filled pages included. */
#define INDEX_BYTES 128

/* An ingest that has written nothing adds at most a name. */
static int within_limit(struct smfs_ingest *ing, struct err *err)
{
	uint64_t mine = atomic_load(&ing->stored), need = 0;

	for (size_t i = 0; i < ing->npend; i++)
		need += ing->pend[i].state == PEND_WRITTEN ? INDEX_BYTES : 0;
	return need ? limit_check_commit(ing->s, need, mine, err) : 0;
}

static int look_below(struct commit *c, struct err *err)
{
	c->looked = true;
	return ingest_refs_below(c->ing, &c->below, err);
}

static int commit(struct smfs_ingest *ing, struct err *err)
{
	size_t npacks = packw_count(ing->packw);
	cleanup_free struct index_pack *packs = calloc(npacks + 1, sizeof(*packs));
	cleanup_free struct journal_change *changes = calloc(ing->nstaged + 1, sizeof(*changes));
	struct commit c = {.ing = ing, .packs = packs, .changes = changes};
	struct index_meta m;
	int r = ingest_check(ing, err);

	if (r < 0)
		return r;
	if (!packs || !changes)
		return err_set(err, ENOMEM, "commit: out of memory");
	if ((r = names_free(ing, err)) < 0 || (r = within_limit(ing, err)) < 0 ||
	    (r = packw_sync(ing->packw, err)) < 0)
		return r;
	for (size_t i = 0; i < npacks; i++)
		packw_at(ing->packw, i, &packs[i].id, &packs[i].len);
	r = index_meta(ing->s->ix, &m, err);
	if (r < 0)
		return r;
	if (collected_since(ing, &m))
		r = look_below(&c, err);
	/* In the order of the index's pages, each is visited once. */
	if (ing->npend)
		qsort(ing->pend, ing->npend, sizeof(*ing->pend), by_id);
	if (r == 0)
		r = index_update(ing->s->ix, commit_txn, &c, err);
	if (r == LOOK_BELOW && (r = look_below(&c, err)) == 0)
		r = index_update(ing->s->ix, commit_txn, &c, err);
	if (r == 0 && c.healed)
		quarantine_healed(ing->s, c.healed);
	for (size_t i = 0; r == 0 && i < ing->nstaged; i++)
		if (ing->staged[i].kind == SMFS_SNAPSHOT)
			pending_forget(ing->s, ing->staged[i].name);
	idset_free(&c.below);
	return r;
}

int smfs_ingest_commit(struct smfs_ingest *ing, struct err *err)
{
	int r = commit(ing, err);

	if (r == 0)
		ingest_notes_write(ing);
	smfs_ingest_abort(ing);
	return r < 0 ? err_wrap(err, r, "commit") : 0;
}

/* ---- remove, rename ---- */

struct change {
	struct smfs_store *s;
	enum smfs_kind kind;
	const char *from, *to;
};

static int get_name(struct index_txn *txn, const struct change *c, struct smfs_name *n,
		    struct err *err)
{
	int r = index_txn_name(txn, c->kind, c->from, n, err);

	if (r == 0)
		return err_set(err, ENOENT, "%s: no such name", c->from);
	return r < 0 ? r : 0;
}

static int remove_txn(struct index_txn *txn, void *arg, struct err *err)
{
	struct change *c = arg;
	struct journal_change jc = {.op = OP_REMOVE};
	struct journal_record rec = {.changes = &jc, .nchanges = 1};
	struct index_meta m;
	int r;

	if ((r = commit_next(txn, &m, err)) < 0 || (r = get_name(txn, c, &jc.name, err)) < 0 ||
	    (r = index_txn_del_name(txn, c->kind, c->from, err)) < 0)
		return r;
	return commit_record(c->s, txn, &m, &rec, err);
}

static int rename_txn(struct index_txn *txn, void *arg, struct err *err)
{
	struct change *c = arg;
	struct journal_change jc = {.op = OP_RENAME};
	struct journal_record rec = {.changes = &jc, .nchanges = 1};
	struct smfs_name taken;
	struct index_meta m;
	int r;

	if ((r = commit_next(txn, &m, err)) < 0 || (r = get_name(txn, c, &jc.name, err)) < 0)
		return r;
	r = index_txn_name(txn, c->kind, c->to, &taken, err);
	if (r != 0)
		return r < 0 ? r : err_set(err, EEXIST, "%s: name is taken", c->to);
	copy_name(jc.from, c->from);
	copy_name(jc.name.name, c->to);
	if ((r = index_txn_del_name(txn, c->kind, c->from, err)) < 0 ||
	    (r = index_txn_set_name(txn, &jc.name, err)) < 0)
		return r;
	return commit_record(c->s, txn, &m, &rec, err);
}

int smfs_name_remove(struct smfs_store *s, enum smfs_kind kind, const char *name, struct err *err)
{
	struct change c = {s, kind, name, NULL};

	if (s->rdonly)
		return err_set(err, EROFS, "remove %s: store opened read-only", name);
	int r = writers_enter(s, err);
	if (r == 0) {
		r = index_update(s->ix, remove_txn, &c, err);
		if (r == 0 && kind == SMFS_SNAPSHOT)
			pending_forget(s, name);
		writers_leave(s);
	}
	return r < 0 ? err_wrap(err, r, "remove") : 0;
}

int smfs_name_rename(struct smfs_store *s, enum smfs_kind kind, const char *from, const char *to,
		     struct err *err)
{
	struct change c = {s, kind, from, to};

	if (s->rdonly)
		return err_set(err, EROFS, "rename %s: store opened read-only", from);
	int r = smfs_name_check(kind, to, err);
	if (r == 0)
		r = writers_enter(s, err);
	if (r == 0) {
		r = index_update(s->ix, rename_txn, &c, err);
		if (r == 0 && kind == SMFS_SNAPSHOT) {
			pending_forget(s, from);
			pending_forget(s, to);
		}
		writers_leave(s);
	}
	return r < 0 ? err_wrap(err, r, "rename %s", from) : 0;
}
