/*
 * publish.c - a complete stage becomes a snapshot: checked, ingested and named in one commit.
 */
#include <stdlib.h>
#include <string.h>

#include "smfs/base/log.h"
#include "smfs/base/num.h"
#include "smfs/mount/stage.h"

struct publication {
	struct stage_area *area;
	struct stage *stage; /* referenced */
};

static struct stage_file *file_of(const struct stage *st, const char *name)
{
	for (size_t i = 0; i < st->nfiles; i++)
		if (strcmp(st->files[i]->name, name) == 0)
			return st->files[i];
	return NULL;
}

static int64_t size_of(const struct stage_file *f)
{
	struct stat st;

	return fstat(f->fd, &st) < 0 ? 0 : st.st_size;
}

static bool has_file(const void *stage, const char *name)
{
	return file_of(stage, name) != NULL;
}

static bool complete(const struct stage *st)
{
	static const char *const needed[] = {"meta", "ram", "vcpu"};

	for (size_t i = 0; i < ARRAY_SIZE(needed); i++) {
		const struct stage_file *f = file_of(st, needed[i]);

		if (!f || size_of(f) == 0)
			return false;
	}
	for (size_t i = 0; i < st->nfiles; i++)
		if (st->files[i]->writers || st->files[i]->name[0] == '.')
			return false;
	/* What comes after a snapshot is published comes too late. */
	return snapshot_is_whole(file_of(st, "meta")->fd, has_file, st);
}

static int ingest(struct stage_area *a, struct stage *st, struct err *err)
{
	struct snapshot_source src[SNAPSHOT_FILES_MAX];
	struct smfs_ingest *ing;
	int r = smfs_ingest_begin(a->mount->store, &ing, err);

	if (r < 0)
		return r;
	for (size_t i = 0; i < st->nfiles; i++)
		src[i] = (struct snapshot_source){.name = st->files[i]->name,
						  .fd = st->files[i]->fd};
	r = snapshot_stage(ing, st->name, src, st->nfiles, &st->record->root, err);
	if (r < 0) {
		smfs_ingest_abort(ing);
		return r;
	}
	/* Should we be killed now, the next server finds out whether it is there. */
	atomic_store(&st->record->publishing, 1);
	return smfs_ingest_commit(ing, err);
}

static void remember(struct stage_area *a, uint64_t seq)
{
	atomic_store(&a->mount->area->imported[a->next_imported], seq);
	a->next_imported = (a->next_imported + 1) % TAKEOVER_IMPORTED;
}

static void publish(void *arg)
{
	struct publication *p = arg;
	struct stage_area *a = p->area;
	struct stage *st = p->stage;
	struct smfs_name name;
	struct err err = ERR_INIT;
	/* Nobody changes the stage while it is being published: no lock. */
	int r = ingest(a, st, &err);

	if (r < 0) {
		log_err("import snapshot %s: %s", st->name, err.msg);
		stats_add(&a->mount->stats, COUNT_IMPORT_FAILURES, 1);
	} else {
		stats_add(&a->mount->stats, COUNT_IMPORTS, 1);
	}
	bool found =
		r == 0 && smfs_name_get(a->mount->store, SMFS_SNAPSHOT, st->name, &name, NULL) == 0;
	pthread_mutex_lock(&a->lock);
	void (*done)(void *arg, int r) = st->done;
	void *done_arg = st->done_arg;
	if (found)
		remember(a, name.seq);
	if (r < 0) {
		st->state = STAGE_WRITING;
		atomic_store(&st->record->publishing, 0);
	} else {
		stage_remove(a, st);
	}
	stage_put(a, st);
	pthread_mutex_unlock(&a->lock);
	done(done_arg, r);
	free(p);
}

bool publish_if_complete(struct stage_area *a, struct stage *st, void (*done)(void *arg, int r),
			 void *arg)
{
	struct publication *p;

	if (a->closed || st->state != STAGE_WRITING || !complete(st))
		return false;
	p = malloc(sizeof(*p));
	if (!p) {
		log_err("import snapshot %s: out of memory", st->name);
		return false;
	}
	*p = (struct publication){.area = a, .stage = st};
	st->state = STAGE_PUBLISHING;
	st->refs++;
	st->done = done;
	st->done_arg = arg;
	workers_submit(a->publisher, publish, p);
	return true;
}
