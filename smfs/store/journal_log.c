/* The journal for people and programs: smfs_log(). */
#include "smfs/store/journal.h"
#include "smfs/store/store_priv.h"

struct log_walk {
	smfs_log_fn fn;
	void *arg;
};

static int each_change(const struct journal_record *rec, void *arg, struct err *err)
{
	static const enum smfs_log_op ops[] = {
		[OP_PUBLISH] = SMFS_LOG_PUBLISH,
		[OP_REMOVE] = SMFS_LOG_REMOVE,
		[OP_RENAME] = SMFS_LOG_RENAME,
	};
	struct log_walk *w = arg;
	struct smfs_log_entry e = {.seq = rec->seq, .time = rec->time, .packs = rec->npacks};
	int r = 0;

	if (!rec->nchanges)
		return w->fn(&e, w->arg, err);
	for (size_t i = 0; i < rec->nchanges && r >= 0; i++) {
		const struct journal_change *c = &rec->changes[i];

		e.op = c->op < ARRAY_SIZE(ops) ? ops[c->op] : SMFS_LOG_NONE;
		e.name = &c->name;
		e.from = c->op == OP_RENAME ? c->from : NULL;
		r = w->fn(&e, w->arg, err);
	}
	return r;
}

int smfs_log(struct smfs_store *s, smfs_log_fn fn, void *arg, struct err *err)
{
	struct log_walk w = {fn, arg};
	struct index_meta m;
	int r = index_meta(s->ix, &m, err);

	if (r == 0)
		r = journal_each(s->journalfd, m.journal_len, each_change, &w, err);
	return r < 0 ? err_wrap(err, r, "log of %s", s->dir) : 0;
}
