/*
 * Names, from the journal and from what can be read of the old index.
 *
 * The journal is the record: its whole records are replayed in order, also those behind a damaged
 * stretch. A whole record behind what the index counts is taken as done: its packs were synced
 * before it was written, and it goes before they do (commit_settle()). If no record is missing, the
 * names are what the replay comes to. Otherwise the old index adds what the journal has lost, and
 * is believed by what it proves:
 *   - all its names read, and its headers whole: it is the state after its last commit. The names
 *     are its own, and what the records behind that commit did to them.
 *   - parts of it: names it knows are kept, unless the journal saw them go after the last stretch
 * it has lost. Where the two then differ, the later commit is right if the numbers tell, and both
 *     names are kept if they do not.
 * Each decision is reported.
 */
#include "smfs/store/repair_priv.h"

#include "smfs/base/cleanup.h"
#include "smfs/base/io.h"
#include "smfs/store/names_each.h"

#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

#define GAP_MAX	       1000000u /* sequence numbers that may be missing in one place */
#define MENDS_A_RECORD 2000u	/* changes */

struct born {
	uint64_t seq; /* of the lost record that is taken to have published it */
	struct smfs_name name;
};

struct replay {
	struct journal_scan scan;
	struct repair *r;
	struct nametab names;
	uint64_t seq, end; /* of the last record taken: its number, where it ends */
	int64_t time;
	uint64_t lost_from, lost_to; /* a lost stretch that no record has followed yet */
	bool gap;		     /* records are missing, */
	uint64_t gap_seq;	     /* the last of them */
	bool late_gap;		     /* and behind what the old index counts */
	struct nametab onto;	     /* a whole old index, and what records behind it did */
	struct nametab gone;	     /* removed or renamed since the last gap */
	bool broken;		     /* what is no record stands between records */
	struct born *born;
	size_t nborn, born_cap;
	/* Second pass: records and fillers go here. */
	int outfd;
	uint64_t outlen;
};

/* A record in the place of a lost one: what later records say was there by then. */
static int put_filler(struct replay *p, uint64_t seq, struct err *err)
{
	struct journal_record filler = {.seq = seq, .time = p->time};
	cleanup_free struct journal_change *v = NULL;

	for (size_t i = 0; i < p->nborn; i++) {
		if (p->born[i].seq != seq || filler.nchanges == MENDS_A_RECORD)
			continue;
		if (!v && !(v = calloc(MENDS_A_RECORD, sizeof(*v))))
			return err_set(err, ENOMEM, "repair names: out of memory");
		v[filler.nchanges++] =
			(struct journal_change){.op = OP_PUBLISH, .name = p->born[i].name};
	}
	filler.changes = v;
	return journal_put(p->outfd, &p->outlen, &filler, err);
}

/* Copies the record as it is, behind one for each number that is missing before it. */
static int copy_record(struct replay *p, const struct journal_record *rec, struct err *err)
{
	int r = 0;

	for (uint64_t seq = p->seq + 1; seq < rec->seq && r == 0; seq++)
		r = put_filler(p, seq, err);
	return r < 0 ? r : journal_put(p->outfd, &p->outlen, rec, err);
}

/* A name that a record removes or renames, and no record has published, came in the last gap. */
static int note_born(struct replay *p, const struct journal_record *rec, struct err *err)
{
	for (size_t i = 0; i < rec->nchanges; i++) {
		const struct journal_change *c = &rec->changes[i];
		const char *old = c->op == OP_RENAME ? c->from : c->name.name;

		if (c->op == OP_PUBLISH || !p->gap_seq ||
		    nametab_find(&p->names, c->name.kind, old))
			continue;
		if (p->nborn == p->born_cap) {
			size_t cap = p->born_cap ? p->born_cap * 2 : 16;
			void *v = reallocarray(p->born, cap, sizeof(*p->born));

			if (!v)
				return err_set(err, ENOMEM, "repair names: out of memory");
			p->born = v;
			p->born_cap = cap;
		}
		struct born *b = &p->born[p->nborn++];
		*b = (struct born){.seq = p->gap_seq, .name = c->name};
		snprintf(b->name.name, sizeof(b->name.name), "%s", old);
	}
	return 0;
}

static int note_gone(struct replay *p, const struct journal_record *rec)
{
	for (size_t i = 0; i < rec->nchanges; i++) {
		const struct journal_change *c = &rec->changes[i];
		struct smfs_name old = c->name;

		if (c->op == OP_RENAME)
			snprintf(old.name, sizeof(old.name), "%s", c->from);
		if (c->op != OP_PUBLISH && nametab_put(&p->gone, &old) < 0)
			return -ENOMEM;
		if (c->op != OP_REMOVE)
			nametab_remove(&p->gone, c->name.kind, c->name.name);
	}
	return 0;
}

/* For deciding; a second pass copies. */
static int note_record(struct replay *p, const struct journal_record *rec, struct err *err)
{
	const struct repair *r = p->r;
	const char *unknown;
	bool behind = r->old_whole && rec->seq > r->old_meta.seq;

	if (note_gone(p, rec) < 0 || (behind && nametab_apply(&p->onto, rec, &unknown) < 0))
		return err_set(err, ENOMEM, "repair names: out of memory");
	return note_born(p, rec, err);
}

static int take_record(struct journal_scan *scan, const struct journal_record *rec, uint64_t off,
		       uint64_t len, struct err *err)
{
	struct replay *p = container_of(scan, struct replay, scan);
	const char *unknown;
	int r = 0;

	/* What is no later than the last is a stale copy, what is far ahead none of ours. */
	if (rec->seq <= p->seq || rec->seq - p->seq > GAP_MAX)
		return 0;
	p->broken |= off != MAX(p->end, JOURNAL_HEAD_LEN);
	p->lost_from = 0;
	if (rec->seq != p->seq + 1) {
		p->gap = true;
		p->gap_seq = rec->seq - 1;
		p->late_gap |= p->gap_seq > p->r->old_meta.seq;
		nametab_free(&p->gone);
	}
	r = p->outfd >= 0 ? copy_record(p, rec, err) : note_record(p, rec, err);
	p->seq = rec->seq;
	p->time = rec->time;
	p->end = off + len;
	if (r == 0 && nametab_apply(&p->names, rec, &unknown) < 0)
		r = err_set(err, ENOMEM, "repair names: out of memory");
	return r;
}

static int take_lost(struct journal_scan *scan, uint64_t from, uint64_t to, struct err *err)
{
	struct replay *p = container_of(scan, struct replay, scan);

	p->lost_from = from;
	p->lost_to = to;
	return 0;
}

/* ---- what the names are ---- */

static int keep(struct repair *r, const struct smfs_name *n, struct err *err)
{
	return nametab_put(&r->names, n) < 0 ? err_set(err, ENOMEM, "repair names: out of memory")
					     : 0;
}

static int decide_one(struct repair *r, const struct replay *p, const struct smfs_name *j,
		      const struct smfs_name *o, struct err *err)
{
	const struct smfs_name *n = j ? j : o;
	const char *kind = kind_word(n->kind);

	if (j && o && name_same(j, o))
		return keep(r, j, err);
	if (j && o) {
		bool old = p->gap && o->seq > j->seq;

		repair_report(r, "%s %s: index and journal differed; as in the %s", kind, n->name,
			      old ? "index" : "journal");
		return keep(r, old ? o : j, err);
	}
	if (o) {
		/* The journal has seen it go: no later than the index, or in a record that the
		 * index did not come to count. */
		if (o->seq <= p->seq && (!p->gap || nametab_find(&p->gone, o->kind, o->name)))
			return 0;
		repair_report(r, "%s %s: kept, though only the old index knows it", kind, o->name);
		return keep(r, o, err);
	}
	if (r->old_whole)
		repair_report(r, "%s %s: kept, though only the journal knows it", kind, j->name);
	return keep(r, j, err);
}

static int decide(struct repair *r, struct replay *p, struct err *err)
{
	int ret = 0;

	if (p->gap && r->old_whole) {
		r->names = p->onto;
		p->onto = (struct nametab){0};
		return 0;
	}
	for (size_t i = 0; i < p->names.cap && ret == 0; i++) {
		const struct smfs_name *j = p->names.v[i];

		if (j)
			ret = decide_one(r, p, j, nametab_find(&r->old, j->kind, j->name), err);
	}
	for (size_t i = 0; i < r->old.cap && ret == 0; i++) {
		const struct smfs_name *o = r->old.v[i];

		if (o && !nametab_find(&p->names, o->kind, o->name))
			ret = decide_one(r, p, NULL, o, err);
	}
	return ret;
}

/* ---- a journal that leads there ---- */

struct mend {
	struct replay *p;
	struct journal_change *v;
	size_t n;
};

static int mend_flush(struct mend *m, struct err *err)
{
	struct journal_record rec = {
		.seq = m->p->seq + 1, .time = now_ns(), .changes = m->v, .nchanges = m->n};
	int r = m->n ? journal_put(m->p->outfd, &m->p->outlen, &rec, err) : 0;

	m->p->seq += m->n != 0;
	m->n = 0;
	return r;
}

static int mend_add(struct mend *m, enum journal_op op, const struct smfs_name *n, struct err *err)
{
	m->v[m->n++] = (struct journal_change){.op = op, .name = *n};
	return m->n == MENDS_A_RECORD ? mend_flush(m, err) : 0;
}

/* What the copied records come to, made what the names are, by records of our own. */
static int mend_names(struct repair *r, struct replay *p, struct err *err)
{
	struct mend m = {.p = p, .v = calloc(MENDS_A_RECORD, sizeof(*m.v))};
	int ret = m.v ? 0 : err_set(err, ENOMEM, "repair names: out of memory");

	for (size_t i = 0; i < p->names.cap && ret == 0; i++) {
		const struct smfs_name *j = p->names.v[i];

		if (j && !nametab_find(&r->names, j->kind, j->name))
			ret = mend_add(&m, OP_REMOVE, j, err);
	}
	for (size_t i = 0; i < r->names.cap && ret == 0; i++) {
		const struct smfs_name *n = r->names.v[i];
		const struct smfs_name *j = n ? nametab_find(&p->names, n->kind, n->name) : NULL;

		if (n && (!j || !name_same(j, n)))
			ret = mend_add(&m, OP_PUBLISH, n, err);
	}
	if (ret == 0)
		ret = mend_flush(&m, err);
	free(m.v);
	return ret;
}

static int write_journal(struct repair *r, int fd, uint64_t len, uint64_t seq,
			 const struct replay *first, struct err *err)
{
	struct replay p = {.r = r,
			   .born = first->born,
			   .nborn = first->nborn,
			   .scan = {.record = take_record, .lost = take_lost},
			   .outlen = JOURNAL_HEAD_LEN};
	uint8_t head[JOURNAL_HEAD_LEN];
	cleanup_fd int out = openat(r->dirfd, JOURNAL_NEW,
				    O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);

	if (out < 0)
		return err_errno(err, "create %s/" JOURNAL_NEW, r->dir);
	p.outfd = out;
	journal_head_encode(r->uuid, head);
	int ret = pwrite_full(out, head, sizeof(head), 0);
	if (ret < 0) {
		errno = -ret;
		return err_errno(err, "write %s/" JOURNAL_NEW, r->dir);
	}
	ret = fd >= 0 ? journal_scan(fd, len, &p.scan, err) : 0;
	/* Numbers the old index has given out are not given out again. */
	if (ret == 0 && p.seq < seq) {
		struct journal_record last = {.seq = seq, .time = now_ns()};

		ret = copy_record(&p, &last, err);
		p.seq = seq;
	}
	if (ret == 0)
		ret = mend_names(r, &p, err);
	nametab_free(&p.names);
	nametab_free(&p.gone);
	if (ret == 0 && fsync(out) < 0)
		ret = err_errno(err, "sync %s/" JOURNAL_NEW, r->dir);
	r->meta.seq = p.seq;
	r->meta.journal_len = p.outlen;
	r->journal_new = true;
	return ret;
}

static bool same_names(const struct nametab *a, const struct nametab *b)
{
	if (a->n != b->n)
		return false;
	for (size_t i = 0; i < a->cap; i++) {
		const struct smfs_name *n = a->v[i];
		const struct smfs_name *o = n ? nametab_find(b, n->kind, n->name) : NULL;

		if (n && (!o || !name_same(n, o)))
			return false;
	}
	return true;
}

int repair_names(struct repair *r, struct err *err)
{
	struct replay p = {.r = r, .scan = {.record = take_record, .lost = take_lost}, .outfd = -1};
	cleanup_fd int fd = openat(r->dirfd, "journal", O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	uint64_t floor = r->old_meta_known ? r->old_meta.seq : 0;
	struct stat st = {0};

	if (fd < 0 && errno != ENOENT)
		return err_errno(err, "open %s/journal", r->dir);
	if (fd >= 0 && fstat(fd, &st) < 0)
		return err_errno(err, "stat %s/journal", r->dir);
	uint64_t len = (uint64_t)st.st_size;
	bool headed = fd >= 0 && journal_head_check(fd, r->uuid, NULL) == 0;
	for (size_t i = 0; r->old_whole && i < r->old.cap; i++)
		if (r->old.v[i] && nametab_put(&p.onto, r->old.v[i]) < 0)
			return err_set(err, ENOMEM, "repair names: out of memory");
	int ret = fd >= 0 ? journal_scan(fd, len, &p.scan, err) : 0;

	p.end = MAX(p.end, JOURNAL_HEAD_LEN);
	/* A stretch at the end is a commit that was cut short, unless the index counts it. */
	if (p.seq < floor) {
		p.gap = true;
		nametab_free(&p.gone);
	}
	if (p.lost_from && p.seq >= floor && !r->old_whole)
		repair_guess(r,
			     "journal: bytes %" PRIu64 "-%" PRIu64 " at its end are no record: "
			     "taken for a commit that was cut short",
			     p.lost_from, p.lost_to - 1);
	if (!headed)
		repair_report(r, "journal: its header is %s; written anew",
			      fd < 0 ? "missing" : "damaged");
	if (fd < 0 && !r->old_whole)
		repair_guess(r, "journal: missing; only names that the old index gave are known");
	else if (p.gap && r->old_whole && !p.late_gap)
		repair_report(r, "journal: records are lost; the old index tells what they did");
	else if (p.gap)
		repair_guess(r, "journal: records are lost; names that were published, removed or "
				"renamed in them may be missing, or back");
	if (ret == 0)
		ret = decide(r, &p, err);
	r->meta.seq = p.seq;
	r->meta.journal_len = p.end;
	if (ret == 0 && (!headed || p.gap || p.broken || !same_names(&p.names, &r->names)))
		ret = write_journal(r, fd, len, floor, &p, err);
	nametab_free(&p.names);
	nametab_free(&p.onto);
	nametab_free(&p.gone);
	free(p.born);
	return ret;
}
