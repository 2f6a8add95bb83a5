/*
 * stage.c - what the kernel asks of a snapshot being copied in. See stage.h.
 */
#include "smfs/mount/stage.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "smfs/base/cleanup.h"
#include "smfs/base/io.h"
#include "smfs/base/log.h"
#include "smfs/base/num.h"

static const struct inode_ops stage_dir_ops;

/* ---- the area ------------------------------------------------------------------------------ */

int stage_area_new(struct smfs_mount *m, struct stage_area **out, struct err *err)
{
	cleanup_fd int dir = open(smfs_store_dir(m->store), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct stage_area *a;

	if (dir < 0)
		return err_errno(err, "open %s", smfs_store_dir(m->store));
	if (mkdirat(dir, "tmp", 0700) < 0 && errno != EEXIST)
		return err_errno(err, "create %s/tmp", smfs_store_dir(m->store));
	a = calloc(1, sizeof(*a));
	if (!a)
		return err_set(err, ENOMEM, "mount: out of memory");
	a->mount = m;
	a->tmp_fd = openat(dir, "tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int r = a->tmp_fd < 0 ? err_errno(err, "open %s/tmp", smfs_store_dir(m->store)) : 0;
	/* A stage waits for the publisher at most once, so submitting never blocks. */
	if (r == 0)
		r = workers_new(&a->publisher, 1, STAGES_MAX, err);
	if (r < 0) {
		if (a->tmp_fd >= 0)
			close(a->tmp_fd);
		free(a);
		return r;
	}
	pthread_mutex_init(&a->lock, NULL);
	*out = a;
	return 0;
}

void stage_area_begin(struct stage_area *a)
{
	/* Never again a number that an earlier server gave. */
	if (a)
		a->serial = (uint64_t)atomic_load(&a->mount->area->servers) << 32;
}

static void file_put(struct stage_file *f)
{
	if (--f->refs == 0) {
		close(f->fd);
		free(f);
	}
}

/* With the lock held. */
void stage_put(struct stage_area *a, struct stage *st)
{
	if (--st->refs > 0)
		return;
	for (size_t i = 0; i < st->nfiles; i++)
		file_put(st->files[i]);
	free(st);
}

void stage_area_drain(struct stage_area *a)
{
	if (!a)
		return;
	pthread_mutex_lock(&a->lock);
	a->closed = true;
	pthread_mutex_unlock(&a->lock);
	workers_wait(a->publisher);
}

/* Every inode is gone by now. */
void stage_area_free(struct stage_area *a)
{
	if (!a)
		return;
	workers_free(a->publisher);
	for (size_t i = 0; i < a->count; i++)
		stage_put(a, a->stages[i]);
	close(a->tmp_fd);
	pthread_mutex_destroy(&a->lock);
	free(a);
}

size_t stage_area_count(struct stage_area *a)
{
	pthread_mutex_lock(&a->lock);
	size_t n = a->count;
	pthread_mutex_unlock(&a->lock);
	return n;
}

bool stage_imported(struct smfs_mount *m, uint64_t seq)
{
	bool is = false;

	pthread_mutex_lock(&m->stages->lock);
	for (size_t i = 0; i < TAKEOVER_IMPORTED; i++)
		is |= atomic_load(&m->area->imported[i]) == seq;
	pthread_mutex_unlock(&m->stages->lock);
	return is;
}

static struct stage *find_stage(struct stage_area *a, const char *name)
{
	for (size_t i = 0; i < a->count; i++)
		if (strcmp(a->stages[i]->name, name) == 0)
			return a->stages[i];
	return NULL;
}

/* ---- stages, as names in snapshots/ --------------------------------------------------------- */

static int stage_inode(struct smfs_mount *m, struct inode *parent, struct stage *st,
		       struct inode **out, struct err *err)
{
	struct node_key key = {.tag = KEY_STAGE, .a = st->serial};
	struct inode *i = inode_new(m, parent, st->name, &stage_dir_ops, &key, S_IFDIR | 0700, err);

	if (!i)
		return -ENOMEM;
	i->node.detail = S_IFDIR;
	i->volatile_attr = i->volatile_name = true;
	i->stage = st;
	st->refs++;
	*out = i;
	return 0;
}

int stage_find(struct smfs_mount *m, struct inode *parent, const char *name, struct inode **out,
	       struct err *err)
{
	struct stage_area *a = m->stages;

	pthread_mutex_lock(&a->lock);
	struct stage *st = find_stage(a, name);
	int r = st ? stage_inode(m, parent, st, out, err) : -ENOENT;
	pthread_mutex_unlock(&a->lock);
	return r;
}

int stage_list(struct smfs_mount *m, struct listing *l, struct err *err)
{
	struct stage_area *a = m->stages;
	int r = 0;

	pthread_mutex_lock(&a->lock);
	for (size_t i = 0; r == 0 && i < a->count; i++)
		r = listing_add(l, a->stages[i]->name, S_IFDIR, err);
	pthread_mutex_unlock(&a->lock);
	return r;
}

/* With the lock held. */
static void add_stage(struct stage_area *a, struct stage *st)
{
	struct takeover_stage *rec = a->mount->area->stages;

	while (atomic_load(&rec->serial))
		rec++;
	snprintf(rec->name, sizeof(rec->name), "%s", st->name);
	atomic_store(&rec->publishing, 0);
	atomic_store(&rec->serial, st->serial);
	st->record = rec;
	a->stages[a->count++] = st;
}

int stage_mkdir(struct smfs_mount *m, struct inode *parent, const char *name, struct inode **out,
		struct err *err)
{
	struct stage_area *a = m->stages;
	struct stage *st = calloc(1, sizeof(*st));
	int r = 0;

	if (!st)
		return err_set(err, ENOMEM, "create %s: out of memory", name);
	st->refs = 1;
	snprintf(st->name, sizeof(st->name), "%s", name);
	pthread_mutex_lock(&a->lock);
	if (find_stage(a, name))
		r = err_set(err, EEXIST, "create snapshots/%s: being copied in already", name);
	else if (a->count >= STAGES_MAX)
		r = err_set(err, ENOSPC,
			    "create snapshots/%s: %d snapshots are being copied in already; "
			    "finish or remove some",
			    name, STAGES_MAX);
	st->serial = ++a->serial;
	if (r == 0)
		r = stage_inode(m, parent, st, out, err);
	if (r == 0)
		add_stage(a, st);
	else
		stage_put(a, st);
	pthread_mutex_unlock(&a->lock);
	return r;
}

int stage_rmdir(struct smfs_mount *m, const char *name, struct err *err)
{
	struct stage_area *a = m->stages;
	int r = 0;

	pthread_mutex_lock(&a->lock);
	struct stage *st = find_stage(a, name);
	if (!st)
		r = -ENOENT;
	else if (st->state == STAGE_PUBLISHING)
		r = err_set(err, EBUSY, "remove %s: it is being published", name);
	else if (st->nfiles)
		r = -ENOTEMPTY;
	else
		stage_remove(a, st);
	pthread_mutex_unlock(&a->lock);
	return r;
}

int stage_rename(struct smfs_mount *m, const char *from, const char *to, struct err *err)
{
	struct stage_area *a = m->stages;
	int r = 0;

	pthread_mutex_lock(&a->lock);
	struct stage *st = find_stage(a, from);
	if (find_stage(a, to))
		r = err_set(err, EEXIST, "rename to %s: being copied in", to);
	else if (!st)
		r = -ENOENT;
	else if (st->state == STAGE_PUBLISHING)
		r = err_set(err, EBUSY, "rename %s: it is being published", from);
	if (r == 0) {
		snprintf(st->name, sizeof(st->name), "%s", to);
		snprintf(st->record->name, sizeof(st->record->name), "%s", to);
	}
	pthread_mutex_unlock(&a->lock);
	return r;
}

/* With the lock held: out of sight; it lives on while open. */
void stage_remove(struct stage_area *a, struct stage *st)
{
	size_t i = 0;

	while (a->stages[i] != st)
		i++;
	a->stages[i] = a->stages[--a->count];
	atomic_store(&st->record->serial, 0);
	st->state = STAGE_DONE;
	stage_put(a, st);
}

void stage_destroy(struct inode *i)
{
	struct stage_area *a = i->mount->stages;

	if (!i->stage)
		return;
	pthread_mutex_lock(&a->lock);
	if (i->stage_file)
		file_put(i->stage_file);
	stage_put(a, i->stage);
	pthread_mutex_unlock(&a->lock);
}

/* ---- files of a stage ----------------------------------------------------------------------- */

int stage_check_writing(const struct stage *st, struct err *err)
{
	return st->state == STAGE_WRITING
		       ? 0
		       : err_set(err, EROFS, "snapshot %s is complete and never changes", st->name);
}

static size_t file_index(const struct stage *st, const char *name)
{
	size_t i = 0;

	while (i < st->nfiles && strcmp(st->files[i]->name, name) != 0)
		i++;
	return i;
}

static int file_inode(struct smfs_mount *m, struct inode *dir, struct stage_file *f,
		      struct inode **out, struct err *err)
{
	struct node_key key = {.tag = KEY_STAGE, .a = f->serial};
	struct inode *i = inode_new(m, dir, f->name, &stage_file_ops, &key, S_IFREG | 0600, err);

	if (!i)
		return -ENOMEM;
	i->node.detail = S_IFREG;
	i->volatile_attr = i->volatile_name = true;
	i->stage = dir->stage;
	i->stage->refs++;
	i->stage_file = f;
	f->refs++;
	*out = i;
	return 0;
}

static int dir_lookup(struct smfs_mount *m, struct inode *dir, const char *name, struct inode **out,
		      struct err *err)
{
	struct stage *st = dir->stage;

	pthread_mutex_lock(&m->stages->lock);
	size_t k = file_index(st, name);
	int r = k < st->nfiles ? file_inode(m, dir, st->files[k], out, err) : -ENOENT;
	pthread_mutex_unlock(&m->stages->lock);
	return r;
}

static int dir_list(struct smfs_mount *m, struct inode *dir, struct listing *l, struct err *err)
{
	int r = 0;

	pthread_mutex_lock(&m->stages->lock);
	for (size_t k = 0; r == 0 && k < dir->stage->nfiles; k++)
		r = listing_add(l, dir->stage->files[k]->name, S_IFREG, err);
	pthread_mutex_unlock(&m->stages->lock);
	return r;
}

static int check_file_name(const char *name, struct err *err)
{
	size_t n =
		strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-");

	if (name[n] || n > STAGE_NAME_MAX)
		return err_set(err, EINVAL,
			       "create %s: a snapshot's files are named with up to %d of "
			       "A-Z a-z 0-9 . _ -",
			       name, STAGE_NAME_MAX);
	return 0;
}

/* Not every file system can make a file without a name: there it has one for a moment. */
static int unnamed_file(struct stage_area *a, struct err *err)
{
	char name[64];
	int fd = openat(a->tmp_fd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

	if (fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR)) {
		snprintf(name, sizeof(name), "copy-%d-%d", (int)getpid(), (int)gettid());
		fd = openat(a->tmp_fd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
		if (fd >= 0)
			unlinkat(a->tmp_fd, name, 0);
	}
	return fd < 0 ? err_errno(err, "create a temporary file in the store") : fd;
}

static int dir_create(struct smfs_mount *m, struct inode *dir, const char *name, struct inode **out,
		      struct err *err)
{
	struct stage_area *a = m->stages;
	struct stage *st = dir->stage;
	struct stage_file *f;
	int r = check_file_name(name, err);

	if (r < 0)
		return r;
	f = calloc(1, sizeof(*f));
	if (!f)
		return err_set(err, ENOMEM, "create %s: out of memory", name);
	f->refs = 1;
	snprintf(f->name, sizeof(f->name), "%s", name);
	f->fd = unnamed_file(a, err);
	if (f->fd < 0) {
		r = f->fd;
		free(f);
		return r;
	}
	pthread_mutex_lock(&a->lock);
	r = stage_check_writing(st, err);
	if (r == 0 && file_index(st, name) < st->nfiles)
		r = -EEXIST;
	if (r == 0 && st->nfiles >= SNAPSHOT_FILES_MAX)
		r = err_set(err, ENOSPC, "create %s: a snapshot has at most %d files", name,
			    SNAPSHOT_FILES_MAX);
	f->serial = ++a->serial;
	if (r == 0)
		r = file_inode(m, dir, f, out, err);
	if (r == 0)
		st->files[st->nfiles++] = f;
	else
		file_put(f);
	pthread_mutex_unlock(&a->lock);
	return r;
}

/* With the lock held. */
static void drop_file(struct stage *st, size_t k)
{
	file_put(st->files[k]);
	st->files[k] = st->files[--st->nfiles];
}

static int dir_unlink(struct smfs_mount *m, struct inode *dir, const char *name, struct err *err)
{
	struct stage *st = dir->stage;

	pthread_mutex_lock(&m->stages->lock);
	size_t k = file_index(st, name);
	int r = k < st->nfiles ? stage_check_writing(st, err) : -ENOENT;
	if (r == 0)
		drop_file(st, k);
	pthread_mutex_unlock(&m->stages->lock);
	return r;
}

/* rsync writes .ram.Xa3k and renames it: the rename of the last file is what completes. */
static int dir_rename(struct smfs_mount *m, struct inode *dir, const char *from,
		      struct inode *to_dir, const char *to, unsigned flags,
		      void (*done)(void *arg, int r), void *arg, struct err *err)
{
	struct stage_area *a = m->stages;
	struct stage *st = dir->stage;
	int r = check_file_name(to, err);

	if (r < 0)
		return r;
	if (st != to_dir->stage)
		return err_set(err, EXDEV, "rename %s: a file stays in its snapshot", from);
	pthread_mutex_lock(&a->lock);
	size_t k = file_index(st, from), old = file_index(st, to);
	if (k == st->nfiles)
		r = -ENOENT;
	else
		r = stage_check_writing(st, err);
	if (r == 0 && old < st->nfiles && old != k && (flags & RENAME_NOREPLACE))
		r = -EEXIST;
	if (r == 0) {
		struct stage_file *f = st->files[k];

		if (old < st->nfiles && old != k)
			drop_file(st, old);
		snprintf(f->name, sizeof(f->name), "%s", to);
		r = publish_if_complete(a, st, done, arg);
	}
	pthread_mutex_unlock(&a->lock);
	return r;
}

/* cp -a and rsync set mode, owner and times, which a snapshot has its own of. */
static int dir_setattr(struct smfs_mount *m, struct inode *i, struct handle *h, int64_t size,
		       struct err *err)
{
	return size < 0 ? 0 : -EISDIR;
}

static const struct inode_ops stage_dir_ops = {
	.lookup = dir_lookup,
	.list = dir_list,
	.create = dir_create,
	.unlink = dir_unlink,
	.rename = dir_rename,
	.setattr = dir_setattr,
};
