/*
 * The order of a repair, and how the new takes the place of the old.
 *
 * ORDER. Each step is durable before the next begins to depend on it:
 *
 *   1. writers are locked out (writers.h); what an earlier repair left half made is removed
 *   2. `format`, if it does not parse or is of another store than the packs, is written anew
 *   3. index.new/: frames and pack lengths from the packs, names and state from the journal. Each
 *      pack is synced before its frames go in (a damaged header is written anew first), then
 *      packs/: what a writer that died left in memory counts from now on. LMDB syncs each
 *      transaction, then fsync of index.new/
 *   4. journal.new, if the journal does not lead to those names by itself; fsync
 *   5. only then: the file `repair` is made, fsync of the store: nobody writes until 8
 *   6. only then: a link journal.bad-<n> to the journal, journal.new renamed over it, fsync
 *   7. index.new/ is renamed to index.bad-<n>/, which then changes places with index/ (one atomic
 *      rename; two where the file system cannot), fsync of the store
 *   8. only if 5: `repair` is removed, fsync
 *
 * Cut short before 5 (before 7 when the journal stays), nothing has changed; nor before the rename
 * of 6, where journal.new is still there beside `repair`, and the next repair takes `repair` away
 * first. Between that rename and 8 names are read as they were or as they will be, nobody writes,
 * and another repair begins at 1: it finds a whole journal then, and trusts it alone. After 7 the
 * index is right. Where `rename` cannot exchange, a death between its two steps leaves no index/,
 * and another repair makes one.
 *
 * Nothing is deleted: the old index and journal stay until smfs_repair_done(), which is called when
 * a check of the repaired store has come out clean. Packs are only read (but for a damaged header):
 * all they hold is in the index again, also what no commit ever vouched for, as garbage that a
 * collection finds.
 *
 * The old index is never opened by LMDB, as its pages may be damaged: index_salvage() reads it.
 */
#include "smfs/store/repair_priv.h"

#include "smfs/base/cleanup.h"
#include "smfs/base/io.h"
#include "smfs/store/index_pages.h"
#include "smfs/store/names_each.h"
#include "smfs/store/writers.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>

#define KEPT_MAX 10000u /* index.bad-<n> */

static void report(struct repair *r, const char *fmt, va_list ap)
{
	char line[2048];

	vsnprintf(line, sizeof(line), fmt, ap);
	if (r->out->report)
		r->out->report(r->out->arg, line);
}

void repair_report(struct repair *r, const char *fmt, ...)
{
	va_list ap;

	r->out->repairs++;
	va_start(ap, fmt);
	report(r, fmt, ap);
	va_end(ap);
}

void repair_guess(struct repair *r, const char *fmt, ...)
{
	va_list ap;

	r->out->guesses++;
	va_start(ap, fmt);
	report(r, fmt, ap);
	va_end(ap);
}

static int sync_dir(struct repair *r, struct err *err)
{
	return fsync(r->dirfd) < 0 ? err_errno(err, "sync %s", r->dir) : 0;
}

/* An index's directory and its files. 0 also if it is not there. */
static int remove_index(int dirfd, const char *name, struct err *err)
{
	cleanup_fd int fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	cleanup_dir DIR *d = fd < 0 ? NULL : fdopendir(dup(fd));
	struct dirent *e;

	if (fd < 0 && errno == ENOENT)
		return 0;
	while (d && (e = readdir(d)))
		if (e->d_name[0] != '.' && unlinkat(fd, e->d_name, 0) < 0)
			return err_errno(err, "remove %s/%s", name, e->d_name);
	return unlinkat(dirfd, name, AT_REMOVEDIR) < 0 ? err_errno(err, "remove %s", name) : 0;
}

/* ---- format ---- */

static bool uuid_of_journal(struct repair *r, uint8_t uuid[UUID_LEN])
{
	cleanup_fd int fd = openat(r->dirfd, "journal", O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	uint8_t head[JOURNAL_HEAD_LEN];

	if (fd < 0 || pread_full(fd, head, sizeof(head), 0) < 0)
		return false;
	memcpy(uuid, head + 16, UUID_LEN);
	return journal_head_check(fd, uuid, NULL) == 0;
}

/* The store's identity is in `format`, the journal and every pack: two that agree are right. */
static int find_identity(struct repair *r, struct err *err)
{
	uint8_t of_packs[UUID_LEN], of_journal[UUID_LEN];
	struct err why = ERR_INIT;
	int64_t created = now_ns();
	int ret = store_format_read(r->dirfd, r->dir, r->uuid, &created, &why);
	bool packs = repair_uuid_of_packs(r, of_packs), journal = uuid_of_journal(r, of_journal);

	if (ret < 0 && ret != -EBADMSG && ret != -ENOENT) {
		if (err)
			*err = why;
		return ret;
	}
	if (ret < 0 && !packs && !journal)
		return err_set(err, EBADMSG, "repair %s: %s, and neither packs nor journal tell",
			       r->dir, why.msg);
	if (ret == 0 && (!packs || memcmp(of_packs, r->uuid, UUID_LEN) == 0))
		return 0;
	if (ret == 0 && (!journal || memcmp(of_journal, of_packs, UUID_LEN) != 0))
		return 0;
	memcpy(r->uuid, packs ? of_packs : of_journal, UUID_LEN);
	ret = store_format_write(r->dirfd, r->dir, r->uuid, created, err);
	if (ret == 0)
		repair_report(r,
			      "format: was damaged and is written anew; the time it gives as the "
			      "store's making may be that of the repair");
	return ret;
}

/* ---- the old index ---- */

static int old_name(const void *key, size_t klen, const void *value, size_t len, void *arg,
		    struct err *err)
{
	struct repair *r = arg;
	struct smfs_name n;

	/* Right by its sum: of a newer program, or forged. */
	if (index_name_decode(key, klen, value, len, &n) < 0)
		return 0;
	return nametab_put(&r->old, &n) < 0 ? err_set(err, ENOMEM, "repair: out of memory") : 0;
}

static int old_state(const void *key, size_t klen, const void *value, size_t len, void *arg,
		     struct err *err)
{
	struct repair *r = arg;

	r->old_meta_known = index_meta_decode(key, klen, value, len, &r->old_meta) == 0;
	return 0;
}

static int read_old(struct repair *r, struct err *err)
{
	cleanup_fd int fd = openat(r->dirfd, "index/data.mdb", O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	bool current = false;
	struct err why = ERR_INIT;

	if (fd < 0 && errno != ENOENT && errno != ENOTDIR && errno != ELOOP)
		return err_errno(err, "open %s/index/data.mdb", r->dir);
	if (fd < 0) {
		repair_report(r, "index: data.mdb is missing; made anew");
		return 0;
	}
	int ret = index_salvage(fd, "names", old_name, r, &current, &why);
	if (ret < 0 && ret != -EBADMSG)
		goto out;
	r->old_whole = ret == 0 && current;
	ret = index_salvage(fd, "meta", old_state, r, &current, &why);
	if (ret < 0 && ret != -EBADMSG)
		goto out;
	/* After a repair that was cut short the journal is whole, and may be newer. */
	r->old_whole &= ret == 0 && r->old_meta_known && !r->resumed;
	return 0;
out:
	if (err)
		*err = why;
	return ret;
}

/* ---- the new index ---- */

static int state_txn(struct index_txn *txn, void *arg, struct err *err)
{
	struct repair *r = arg;
	int ret = index_txn_set_meta(txn, &r->meta, err);

	for (size_t i = 0; i < r->names.cap && ret == 0; i++)
		if (r->names.v[i])
			ret = index_txn_set_name(txn, r->names.v[i], err);
	return ret;
}

static int build(struct repair *r, struct err *err)
{
	cleanup_free char *path = NULL;
	int ret;

	if (asprintf(&path, "%s/" INDEX_NEW, r->dir) < 0)
		return err_set(err, ENOMEM, "repair %s: out of memory", r->dir);
	if (mkdirat(r->dirfd, INDEX_NEW, 0700) < 0)
		return err_errno(err, "create %s", path);
	if ((ret = index_create(path, err)) < 0 || (ret = index_open(path, false, &r->ix, err)) < 0)
		return ret;
	/* Pins of readers of the old index are of an earlier generation than any condemnation. */
	r->meta.gc_gen =
		r->old_meta_known ? r->old_meta.gc_gen + 1 : (uint64_t)now_ns() / 1000000000;
	if ((ret = repair_packs(r, err)) < 0 || (ret = repair_names(r, err)) < 0 ||
	    (ret = index_update(r->ix, state_txn, r, err)) < 0)
		return ret;
	index_close(r->ix);
	r->ix = NULL;
	cleanup_fd int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 || fsync(fd) < 0 ? err_errno(err, "sync %s", path) : 0;
}

/* ---- the swap ---- */

/* `prefix`<n> for the first n that is free. */
static int free_name(struct repair *r, const char *prefix, char out[64], struct err *err)
{
	struct stat st;

	for (unsigned n = 1; n < KEPT_MAX; n++) {
		snprintf(out, 64, "%s%u", prefix, n);
		if (fstatat(r->dirfd, out, &st, AT_SYMLINK_NOFOLLOW) < 0 && errno == ENOENT)
			return 0;
	}
	return err_set(err, EEXIST, "repair %s: too many %s*; remove some", r->dir, prefix);
}

static int swap_journal(struct repair *r, struct err *err)
{
	char kept[64];
	int ret = free_name(r, JOURNAL_BAD, kept, err);

	if (ret < 0)
		return ret;
	cleanup_fd int fd =
		openat(r->dirfd, REPAIR_FILE, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return err_errno(err, "create %s/" REPAIR_FILE, r->dir);
	if ((ret = sync_dir(r, err)) < 0)
		return ret;
	if (linkat(r->dirfd, "journal", r->dirfd, kept, 0) < 0 && errno != ENOENT)
		return err_errno(err, "keep %s/journal as %s", r->dir, kept);
	if (renameat(r->dirfd, JOURNAL_NEW, r->dirfd, "journal") < 0)
		return err_errno(err, "replace %s/journal", r->dir);
	return sync_dir(r, err);
}

static int swap_index(struct repair *r, struct err *err)
{
	char kept[64];
	struct stat st;
	int ret = free_name(r, INDEX_BAD, kept, err);

	if (ret < 0)
		return ret;
	if (fstatat(r->dirfd, "index", &st, AT_SYMLINK_NOFOLLOW) < 0) {
		if (renameat(r->dirfd, INDEX_NEW, r->dirfd, "index") < 0)
			return err_errno(err, "put the new index in place");
		return sync_dir(r, err);
	}
	if (renameat(r->dirfd, INDEX_NEW, r->dirfd, kept) < 0)
		return err_errno(err, "rename the new index to %s", kept);
	ret = renameat2(r->dirfd, kept, r->dirfd, "index", RENAME_EXCHANGE) < 0 ? -errno : 0;
	if (ret == -EINVAL || ret == -ENOSYS) {
		/* A file system that cannot exchange. */
		if (renameat(r->dirfd, kept, r->dirfd, INDEX_NEW) < 0 ||
		    renameat(r->dirfd, "index", r->dirfd, kept) < 0 ||
		    renameat(r->dirfd, INDEX_NEW, r->dirfd, "index") < 0)
			return err_errno(err, "put the new index in place");
	} else if (ret < 0) {
		errno = -ret;
		return err_errno(err, "put the new index in place");
	}
	return sync_dir(r, err);
}

static int repair_locked(struct repair *r, struct err *err)
{
	static const char *const dirs[] = {"packs", "tmp"};
	struct stat st;
	int ret;

	r->resumed = fstatat(r->dirfd, REPAIR_FILE, &st, AT_SYMLINK_NOFOLLOW) == 0;
	if (!r->resumed && errno != ENOENT)
		return err_errno(err, "stat %s/" REPAIR_FILE, r->dir);
	if (r->resumed && fstatat(r->dirfd, JOURNAL_NEW, &st, AT_SYMLINK_NOFOLLOW) == 0) {
		if (unlinkat(r->dirfd, REPAIR_FILE, 0) < 0)
			return err_errno(err, "remove %s/" REPAIR_FILE, r->dir);
		if ((ret = sync_dir(r, err)) < 0)
			return ret;
		r->resumed = false;
	}
	if ((ret = remove_index(r->dirfd, INDEX_NEW, err)) < 0)
		return ret;
	if (unlinkat(r->dirfd, JOURNAL_NEW, 0) < 0 && errno != ENOENT)
		return err_errno(err, "remove %s/" JOURNAL_NEW, r->dir);
	for (size_t i = 0; i < ARRAY_SIZE(dirs); i++)
		if (mkdirat(r->dirfd, dirs[i], 0700) < 0 && errno != EEXIST)
			return err_errno(err, "create %s/%s", r->dir, dirs[i]);
	if ((ret = find_identity(r, err)) < 0 || (ret = read_old(r, err)) < 0 ||
	    (ret = build(r, err)) < 0)
		return ret;
	if (r->journal_new && (ret = swap_journal(r, err)) < 0)
		return ret;
	if ((ret = swap_index(r, err)) < 0)
		return ret;
	if (unlinkat(r->dirfd, REPAIR_FILE, 0) == 0)
		ret = sync_dir(r, err);
	else if (errno != ENOENT)
		ret = err_errno(err, "remove %s/" REPAIR_FILE, r->dir);
	if (ret == 0)
		repair_report(r,
			      "index: made anew from %" PRIu64 " packs, with %" PRIu64
			      " frames and %zu names",
			      r->out->packs, r->out->frames, r->names.n);
	return ret;
}

/* A directory that looks like a store, so that nothing is ever made in another. */
static int open_dir(const char *dir, struct err *err)
{
	cleanup_fd int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct stat st;

	if (fd < 0)
		return err_errno(err, "open store %s", dir);
	if (fstatat(fd, "packs", &st, 0) < 0 ||
	    (fstatat(fd, FORMAT_FILE, &st, 0) < 0 && fstatat(fd, "journal", &st, 0) < 0))
		return err_set(err, ENOENT, "%s: not a store", dir);
	return steal_fd(&fd);
}

int smfs_repair(const char *dir, struct smfs_fsck *f, struct err *err)
{
	cleanup_fd int dirfd = open_dir(dir, err);
	struct repair r = {.dir = dir, .dirfd = dirfd, .out = f};

	if (dirfd < 0)
		return dirfd;
	f->packs = f->frames = f->nodes = f->names = f->done_bytes = 0;
	f->repairs = f->guesses = 0;
	f->bad_frames = f->bad_names = f->garbage_frames = 0;
	cleanup_fd int lock = writers_exclude(dirfd, dir, err);
	if (lock < 0)
		return lock;
	int ret = repair_locked(&r, err);
	index_close(r.ix);
	f->names = r.names.n;
	nametab_free(&r.old);
	nametab_free(&r.names);
	return ret < 0 ? err_wrap(err, ret, "repair %s", dir) : 0;
}

int smfs_repair_done(const char *dir, struct err *err)
{
	cleanup_fd int dirfd = open_dir(dir, err);

	if (dirfd < 0)
		return dirfd;
	cleanup_fd int lock = writers_exclude(dirfd, dir, err);
	cleanup_dir DIR *d = lock < 0 ? NULL : fdopendir(dup(dirfd));
	struct dirent *e;
	int ret = 0;

	if (lock < 0)
		return lock;
	while (d && ret == 0 && (e = readdir(d))) {
		if (strncmp(e->d_name, INDEX_BAD, strlen(INDEX_BAD)) == 0)
			ret = remove_index(dirfd, e->d_name, err);
		else if (strncmp(e->d_name, JOURNAL_BAD, strlen(JOURNAL_BAD)) == 0 &&
			 unlinkat(dirfd, e->d_name, 0) < 0)
			ret = err_errno(err, "remove %s/%s", dir, e->d_name);
	}
	return ret;
}
