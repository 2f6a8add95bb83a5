/*
 * store_model.h - what a store should hold, as a plain array, and operations that change both.
 *
 * A model is a *lane*: a few slots, each a snapshot name that exists with known content or does
 * not exist. The n-th operation follows from the lane's seed, n and the slots, so that a test
 * that knows how many operations were acknowledged knows the state, and also the one state that an
 * operation under way may have led to. Lanes use names of their own: several may work on one
 * store at once.
 *
 * Contents share blocks from a small pool, so that frames are found again, fall out of use with
 * the last name that had them, and come back into use later.
 */
#ifndef TESTS_UNIT_STORE_MODEL_H
#define TESTS_UNIT_STORE_MODEL_H

#include "store_util.h"

#include <inttypes.h>
#include <signal.h>
#include <sys/prctl.h>

#define MODEL_SLOTS  6
#define MODEL_BLOCKS 6 /* of a file, at most */
#define MODEL_POOL   16
#define MODEL_BYTES  (MODEL_BLOCKS * 65536u)

struct model {
	uint64_t seed;
	unsigned lane;
	uint64_t done;		    /* operations so far */
	uint64_t slot[MODEL_SLOTS]; /* what the name holds: the key of its content; 0: no such name
				     */
};

enum model_kind {
	MODEL_PUT,
	MODEL_REPLACE,
	MODEL_REMOVE,
	MODEL_RENAME,
	MODEL_GC,
	MODEL_COMPACT, /* gc that rewrites every pack with anything dead */
	MODEL_KINDS
};

static const char *const model_words[MODEL_KINDS] = {"put",    "replace", "remove",
						     "rename", "gc",	  "compact"};

struct model_op {
	enum model_kind kind;
	unsigned slot, to; /* to: rename */
	uint64_t key;	   /* put, replace */
};

static inline uint64_t model_mix(uint64_t a, uint64_t b)
{
	uint64_t x = (a + 1) * 0x9e3779b97f4a7c15ull ^ (b + 1) * 0xbf58476d1ce4e5b9ull;

	rnd(&x);
	rnd(&x);
	return rnd(&x);
}

/* The slot at or after `from` that is in use, or free; MODEL_SLOTS: there is none. */
static inline unsigned model_slot(const struct model *m, unsigned from, bool used)
{
	for (unsigned i = 0; i < MODEL_SLOTS; i++)
		if ((m->slot[(from + i) % MODEL_SLOTS] != 0) == used)
			return (from + i) % MODEL_SLOTS;
	return MODEL_SLOTS;
}

/* The next operation: one that must succeed. `want` < MODEL_KINDS asks for a kind, if it can be. */
static inline struct model_op model_next(const struct model *m, unsigned want)
{
	uint64_t x = model_mix(m->seed * 131 + m->lane, m->done);
	unsigned at = (unsigned)(x >> 8) % MODEL_SLOTS;
	unsigned used = model_slot(m, at, true), free_slot = model_slot(m, at, false);
	struct model_op op = {.kind = MODEL_PUT, .key = x >> 16 | 1};

	unsigned dice = (unsigned)(x % 16);
	unsigned kind = want < MODEL_KINDS ? want
			: dice < 6	   ? MODEL_PUT
			: dice < 9	   ? MODEL_REPLACE
			: dice < 12	   ? MODEL_REMOVE
			: dice < 14	   ? MODEL_RENAME
			: dice < 15	   ? MODEL_GC
					   : MODEL_COMPACT;
	if (free_slot == MODEL_SLOTS && (kind == MODEL_PUT || kind == MODEL_RENAME))
		kind = MODEL_REMOVE;
	if (used == MODEL_SLOTS)
		kind = MODEL_PUT;
	op.kind = kind;
	op.slot = kind == MODEL_PUT ? free_slot : used;
	op.to = free_slot;
	return op;
}

static inline void model_apply(struct model *m, const struct model_op *op)
{
	switch (op->kind) {
	case MODEL_PUT:
	case MODEL_REPLACE:
		m->slot[op->slot] = op->key;
		break;
	case MODEL_REMOVE:
		m->slot[op->slot] = 0;
		break;
	case MODEL_RENAME:
		m->slot[op->to] = m->slot[op->slot];
		m->slot[op->slot] = 0;
		break;
	default:
		break;
	}
	m->done++;
}

static inline void model_name(const struct model *m, unsigned slot, char out[32])
{
	snprintf(out, 32, "lane%u-%u", m->lane, slot);
}

/* `buf` of MODEL_BYTES. The content's length. */
static inline size_t model_content(uint64_t key, uint8_t *buf)
{
	uint64_t x = key;
	size_t blocks = 1 + rnd(&x) % MODEL_BLOCKS;

	for (size_t i = 0; i < blocks; i++) {
		uint64_t r = rnd(&x);
		uint8_t *p = buf + i * 65536;

		if (r % 8 == 0)
			memset(p, 0, 65536);
		else if (r % 8 < 5)
			fill_mixed(p, 65536, 1000 + (r >> 8) % MODEL_POOL);
		else
			fill_random(p, 65536, r);
	}
	return blocks * 65536 - rnd(&x) % 65536;
}

/* Stage { data, sub/note, sub/link } under the name. */
static inline int model_stage(struct smfs_ingest *ing, const char *name, uint64_t key,
			      unsigned flags, uint8_t *buf, struct err *err)
{
	struct smfs_entry sub[2] = {
		{.name = "note", .mode = S_IFREG | 0600, .nlink = 1},
		{.name = "link", .mode = S_IFLNK | 0777, .nlink = 1, .target = "../data"},
	};
	struct smfs_entry top[2] = {
		{.name = "data", .mode = S_IFREG | 0644, .nlink = 1},
		{.name = "sub", .mode = S_IFDIR | 0755, .nlink = 1},
	};
	struct smfs_id root;
	char note[32];
	size_t len = model_content(key, buf);
	int n = snprintf(note, sizeof(note), "%" PRIx64 "\n", key), r;

	if ((r = smfs_ingest_mem(ing, buf, len, &top[0].content, err)) < 0 ||
	    (r = smfs_ingest_mem(ing, note, (size_t)n, &sub[0].content, err)) < 0 ||
	    (r = smfs_ingest_dir(ing, sub, 2, &top[1].dir, err)) < 0 ||
	    (r = smfs_ingest_dir(ing, top, 2, &root, err)) < 0)
		return r;
	return smfs_ingest_name(ing, SMFS_SNAPSHOT, name, &root, NULL, flags, err);
}

static inline int model_put(struct smfs_store *s, const char *name, uint64_t key, unsigned flags,
			    uint8_t *buf, struct err *err)
{
	struct smfs_ingest *ing;
	int r = smfs_ingest_begin(s, &ing, err);

	if (r < 0)
		return r;
	r = model_stage(ing, name, key, flags, buf, err);
	if (r == 0)
		return smfs_ingest_commit(ing, err);
	smfs_ingest_abort(ing);
	return r;
}

static inline int model_gc(struct smfs_store *s, unsigned compact_percent, struct err *err)
{
	struct smfs_gc g = {.compact_percent = compact_percent};
	int r = smfs_gc(s, 0, &g, err);

	/* Another lane's is at work. */
	return r == -EBUSY ? 0 : r;
}

/* Do it to the store. `buf` of MODEL_BYTES. */
static inline int model_run(struct smfs_store *s, const struct model *m, const struct model_op *op,
			    uint8_t *buf, struct err *err)
{
	char name[32], to[32];

	model_name(m, op->slot, name);
	switch (op->kind) {
	case MODEL_PUT:
		return model_put(s, name, op->key, 0, buf, err);
	case MODEL_REPLACE:
		return model_put(s, name, op->key, SMFS_REPLACE, buf, err);
	case MODEL_REMOVE:
		return smfs_name_remove(s, SMFS_SNAPSHOT, name, err);
	case MODEL_GC:
		return model_gc(s, SMFS_GC_COMPACT_DEFAULT, err);
	case MODEL_COMPACT:
		return model_gc(s, 1, err);
	default:
		model_name(m, op->to, to);
		return smfs_name_rename(s, SMFS_SNAPSHOT, name, to, err);
	}
}

/* ---- checking: 0, or -EBADMSG with what differs ---- */

static inline int model_file(struct smfs_store *s, const char *name, const struct smfs_content *c,
			     const void *want, size_t len, struct err *err)
{
	cleanup_free uint8_t *got = malloc(len + 1);
	struct smfs_file *f;
	int r = smfs_file_open(s, c, &f, err);

	if (r < 0)
		return err_wrap(err, -EBADMSG, "%s", name);
	ssize_t n = smfs_file_pread(f, got, len + 1, 0, err);
	smfs_file_close(f);
	if (n < 0)
		return err_wrap(err, -EBADMSG, "%s", name);
	if ((size_t)n != len || memcmp(got, want, len) != 0)
		return err_set(err, EBADMSG, "%s: not the %zu bytes it was given", name, len);
	return 0;
}

static inline int model_tree(struct smfs_store *s, const char *name, const struct smfs_id *root,
			     uint64_t key, uint8_t *buf, struct err *err)
{
	struct smfs_dir *top = NULL, *sub = NULL;
	const struct smfs_entry *e;
	char note[32];
	int n = snprintf(note, sizeof(note), "%" PRIx64 "\n", key);
	int r = smfs_dir_open(s, root, &top, err);

	if (r == 0 && (smfs_dir_count(top) != 2 || !(e = smfs_dir_find(top, "sub"))))
		r = err_set(err, EBADMSG, "%s: another directory", name);
	if (r == 0)
		r = smfs_dir_open(s, &e->dir, &sub, err);
	if (r == 0 && (!(e = smfs_dir_find(sub, "link")) || strcmp(e->target, "../data") != 0))
		r = err_set(err, EBADMSG, "%s: another link", name);
	if (r == 0 && (e = smfs_dir_find(sub, "note")))
		r = model_file(s, name, &e->content, note, (size_t)n, err);
	if (r == 0 && (e = smfs_dir_find(top, "data")))
		r = model_file(s, name, &e->content, buf, model_content(key, buf), err);
	if (sub)
		smfs_dir_close(sub);
	if (top)
		smfs_dir_close(top);
	return r < 0 ? err_wrap(err, -EBADMSG, "%s", name) : 0;
}

/* A name and all its bytes are as the model says. */
static inline int model_check_slot(struct smfs_store *s, const struct model *m, unsigned slot,
				   uint8_t *buf, struct err *err)
{
	struct smfs_name n;
	char name[32];

	model_name(m, slot, name);
	int r = smfs_name_get(s, SMFS_SNAPSHOT, name, &n, err);
	if (r == -ENOENT && !m->slot[slot])
		return 0;
	if (r < 0)
		return err_wrap(err, -EBADMSG, "%s after %" PRIu64 " operations", name, m->done);
	if (!m->slot[slot])
		return err_set(err, EBADMSG, "%s is there, after %" PRIu64 " operations", name,
			       m->done);
	return model_tree(s, name, &n.root, m->slot[slot], buf, err);
}

static inline int model_check(struct smfs_store *s, const struct model *m, uint8_t *buf,
			      struct err *err)
{
	int r = 0;

	for (unsigned i = 0; i < MODEL_SLOTS && r == 0; i++)
		r = model_check_slot(s, m, i, buf, err);
	return r;
}

/*
 * A child of its own: signals do what they do without cmocka, whose handlers would go on with the
 * next test, and no child outlives the test. It must not use cmocka's assertions, for the same
 * reason.
 */
static inline pid_t model_fork(void)
{
	static const int signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGSYS};

	fflush(stdout);
	pid_t pid = fork();
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (size_t i = 0; i < ARRAY_SIZE(signals); i++)
			signal(signals[i], SIG_DFL);
	}
	return pid;
}

static inline void model_print_line(void *arg, const char *line)
{
	fprintf(stderr, "# fsck: %s\n", line);
}

static inline int model_fsck(struct smfs_store *s, bool quiet, struct err *err)
{
	struct smfs_fsck k = {.report = quiet ? NULL : model_print_line};

	return smfs_fsck(s, SMFS_FSCK_READ_DATA, &k, err);
}

#endif
