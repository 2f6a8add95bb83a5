/* The check of a store: index, packs, names, journal. */
#include "smfs/store/fsck_priv.h"

#include "smfs/base/cleanup.h"
#include "smfs/store/lease.h"
#include "smfs/store/names_each.h"
#include "smfs/store/nametab.h"
#include "smfs/store/object.h"
#include "smfs/store/quarantine.h"
#include "smfs/store/walk.h"

#include <inttypes.h>
#include <stdarg.h>
#include <string.h>

void fsck_report(struct fsck *f, const char *fmt, ...)
{
	char line[2048];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	f->findings++;
	if (f->out->report)
		f->out->report(f->out->arg, line);
}

/* ---- the index's frames ---- */

static int note_frame(const struct smfs_id *id, const struct frame_loc *loc, void *arg,
		      struct err *err)
{
	struct fsck *f = arg;
	bool fresh;
	struct idset_entry *e = idset_add(&f->frames, loc->kind, id, &fresh);

	if (!e)
		return err_set(err, ENOMEM, "check: out of memory");
	e->stored = loc->stored_len;
	return 0;
}

static int note_frames(struct fsck *f, struct err *err)
{
	int r = index_each_frame(f->s->ix, false, note_frame, f, err);

	return r < 0 ? r : index_each_frame(f->s->ix, true, note_frame, f, err);
}

/* ---- names ---- */

static int note_name(const struct smfs_name *n, void *arg, struct err *err)
{
	return nametab_put(arg, n) < 0 ? err_set(err, ENOMEM, "check names: out of memory") : 0;
}

struct name_walk {
	struct walk w;
	struct fsck *f;
	const struct smfs_name *name;
};

static void report_here(struct name_walk *nw, const char *why)
{
	char range[64] = "";

	if (nw->w.in_file && nw->w.end > nw->w.start)
		snprintf(range, sizeof(range), "bytes %" PRIu64 "-%" PRIu64 ": ", nw->w.start,
			 nw->w.end - 1);
	fsck_report(nw->f, "%s %s: %s: %s%s", kind_word(nw->name->kind), nw->name->name,
		    nw->w.path_len ? nw->w.path : ".", range, why);
}

static int check_node(struct walk *w, uint8_t kind, const struct smfs_id *id, struct err *err)
{
	struct name_walk *nw = container_of(w, struct name_walk, w);
	struct idset_entry *e = idset_find(&nw->f->frames, kind, id);

	if (e)
		e->bits |= FSCK_REACHED;
	return !e || !(e->bits & FSCK_CLEAN);
}

static void node_clean(struct walk *w, uint8_t kind, const struct smfs_id *id)
{
	struct name_walk *nw = container_of(w, struct name_walk, w);
	struct idset_entry *e = idset_find(&nw->f->frames, kind, id);

	if (e && (e->bits & FSCK_SEEN))
		e->bits |= FSCK_CLEAN;
}

static int check_bad(struct walk *w, struct err *err)
{
	if (err->code != EBADMSG && err->code != ENOTSUP)
		return -err->code;
	report_here(container_of(w, struct name_walk, w), err->msg);
	err_clear(err);
	return 0;
}

/* Reads a frame the pack scan did not find whole, for the reason. */
static int why_not_seen(struct fsck *f, const struct smfs_id *id, struct err *err)
{
	struct frame_loc loc;
	int r = index_find(f->s->ix, FRAME_CHUNK, id, &loc, err);

	if (r <= 0)
		return r < 0 ? r : err_set(err, EBADMSG, "its chunk is not in the index");
	cleanup_free uint8_t *raw = malloc(loc.raw_len);
	if (!raw)
		return err_set(err, ENOMEM, "check chunk: out of memory");
	r = object_read_at(f->s, &loc, id, true, raw, err);
	return r < 0 ? r : err_set(err, EBADMSG, "its frame was not found by the scan of its pack");
}

static int check_chunk(struct walk *w, const struct smfs_id *id, uint32_t off, uint32_t len,
		       struct err *err)
{
	struct name_walk *nw = container_of(w, struct name_walk, w);
	struct idset_entry *e = idset_find(&nw->f->frames, FRAME_CHUNK, id);
	struct frame_loc loc;
	char hex[65];

	if (e)
		e->bits |= FSCK_REACHED;
	if (!e) {
		err_set(err, EBADMSG, "chunk %.12s: not in the store", smfs_id_hex(id, hex));
	} else if (!(e->bits & FSCK_SEEN)) {
		why_not_seen(nw->f, id, err);
	} else {
		int r = index_find(nw->f->s->ix, FRAME_CHUNK, id, &loc, err);

		if (r > 0 && range_ok(off, len, loc.raw_len))
			return 0;
		if (r >= 0)
			err_set(err, EBADMSG, "chunk %.12s: a map refers to bytes past its end",
				smfs_id_hex(id, hex));
	}
	w->trouble++;
	return check_bad(w, err);
}

static int check_name(struct fsck *f, const struct smfs_name *n, struct err *err)
{
	struct name_walk nw = {
		.w = {.s = f->s,
		      .node = check_node,
		      .chunk = check_chunk,
		      .bad = check_bad,
		      .clean = node_clean},
		.f = f,
		.name = n,
	};
	int r = walk_tree(&nw.w, &n->root, err);

	f->out->names++;
	if (nw.w.trouble)
		f->out->bad_names++;
	walk_fini(&nw.w);
	return r;
}

static int check_names(struct fsck *f, const struct nametab *names, struct err *err)
{
	cleanup_free struct smfs_name **v = nametab_sorted(names);
	int r = v ? 0 : err_set(err, ENOMEM, "check names: out of memory");

	for (size_t i = 0; i < names->n && r == 0; i++)
		r = check_name(f, v[i], err);
	return r;
}

/* Of every frame the index knows: was it there, and does anybody need it? */
static int check_unreached(struct fsck *f, struct err *err)
{
	for (size_t i = 0; i < f->frames.cap; i++) {
		const struct idset_entry *e = &f->frames.v[i];
		char hex[65], name[PACK_NAME_LEN];
		struct frame_loc loc;

		if (!e->kind)
			continue;
		if (!(e->bits & (FSCK_SEEN | FSCK_BAD))) {
			int r = index_find(f->s->ix, e->kind, &e->id, &loc, err);

			if (r < 0)
				return r;
			f->out->bad_frames++;
			fsck_report(f, "pack %s: frame %.12s: not found at %" PRIu64,
				    r ? pack_name(loc.pack, name) : "?", smfs_id_hex(&e->id, hex),
				    r ? loc.off : 0);
		}
		if (!(e->bits & FSCK_REACHED))
			f->out->garbage_frames++;
	}
	return 0;
}

/* ---- journal ---- */

static int replay(const struct journal_record *rec, void *arg, struct err *err)
{
	const char *unknown;

	if (nametab_apply(arg, rec, &unknown) < 0)
		return err_set(err, ENOMEM, "check journal: out of memory");
	return unknown ? err_set(err, EBADMSG, "journal: record %" PRIu64 " speaks of %s, unknown",
				 rec->seq, unknown)
		       : 0;
}

static void compare(struct fsck *f, const struct nametab *journal, const struct nametab *index)
{
	for (size_t i = 0; i < index->cap; i++) {
		const struct smfs_name *n = index->v[i];
		const struct smfs_name *other = n ? nametab_find(journal, n->kind, n->name) : NULL;

		if (!n)
			continue;
		if (!other || !name_same(other, n))
			fsck_report(f, "%s %s: the index and the journal differ",
				    kind_word(n->kind), n->name);
	}
	for (size_t i = 0; i < journal->cap; i++) {
		const struct smfs_name *n = journal->v[i];

		if (n && !nametab_find(index, n->kind, n->name))
			fsck_report(f, "%s %s: in the journal, not in the index",
				    kind_word(n->kind), n->name);
	}
}

/* List the names, and check the journal against them while no commit comes between. */
static int check_journal(struct fsck *f, struct nametab *names, struct err *err)
{
	struct index_meta before = {0}, after = {0};
	int r;

	for (;;) {
		struct nametab replayed = {0};

		nametab_free(names);
		r = index_meta(f->s->ix, &before, err);
		if (r == 0)
			r = names_each(f->s, note_name, names, err);
		if (r == 0)
			r = index_meta(f->s->ix, &after, err);
		if (r < 0)
			return r;
		if (before.seq != after.seq)
			continue;
		if (before.journal_len)
			r = journal_each(f->s->journalfd, before.journal_len, replay, &replayed,
					 err);
		if (r == 0)
			compare(f, &replayed, names);
		else if (r == -EBADMSG)
			fsck_report(f, "%s", err->msg);
		nametab_free(&replayed);
		return r == -EBADMSG ? 0 : r;
	}
}

int smfs_fsck(struct smfs_store *s, unsigned flags, struct smfs_fsck *out, struct err *err)
{
	struct fsck f = {.s = s, .out = out, .read_data = flags & SMFS_FSCK_READ_DATA};
	struct err local = ERR_INIT;
	struct nametab names = {0};
	int r;

	out->packs = out->frames = out->nodes = out->names = 0;
	out->bad_frames = out->bad_names = out->garbage_frames = out->done_bytes = 0;
	/* Frames do not go or move while they are counted; ingests and removals go on. */
	cleanup_fd int lock = lease_gc_lock(s, false, err);
	if (lock < 0)
		return err_wrap(err, lock, "check %s", s->dir);
	cache_clear(s->cache);
	quarantine_reload(s);
	if ((r = check_journal(&f, &names, &local)) == 0 && (r = note_frames(&f, &local)) == 0)
		r = fsck_packs(&f, &local);
	if (r == 0)
		r = check_names(&f, &names, &local);
	if (r == 0)
		r = check_unreached(&f, &local);
	if (r == 0)
		quarantine_prune(s);
	out->quarantined = quarantine_count(s);
	nametab_free(&names);
	idset_free(&f.frames);
	if (r < 0) {
		if (err)
			*err = local;
		return err_wrap(err, r, "check %s", s->dir);
	}
	if (f.findings)
		return err_set(err, EBADMSG, "store %s: %" PRIu64 " findings", s->dir, f.findings);
	return 0;
}
