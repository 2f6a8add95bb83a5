#include "smfs/store/index.h"

#include "smfs/base/cleanup.h"
#include "smfs/store/index_pages.h"
#include "smfs/store/index_priv.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/*
 * The map is address space, not disk: it starts generous and doubles when a writer fills it.
 * Other processes notice (MDB_MAP_RESIZED) and follow.
 */
#define MAP_SIZE_MIN (16 * GIB)
#define MAP_SIZE_MAX (16 * TIB)
/* How often commits may overtake a proof of the pages before it gives up. */
#define PROOF_TRIES 16
/* Reader slots: threads of all processes that read at one moment, plus kept ones. */
#define MAX_READERS 4096
#define MAX_DBS	    8

int index_err(struct err *err, int rc, const char *what)
{
	switch (rc) {
	case MDB_CORRUPTED:
	case MDB_PAGE_NOTFOUND:
	case MDB_INVALID:
	case MDB_PANIC:
	case MDB_BAD_TXN:
		return err_set(err, EBADMSG, "store index: %s: %s; run `smfs fsck --repair`", what,
			       mdb_strerror(rc));
	case MDB_VERSION_MISMATCH:
		return err_set(err, ENOTSUP, "store index: %s: %s", what, mdb_strerror(rc));
	case MDB_READERS_FULL:
		return err_set(err, EBUSY, "store index: %s: all %d reader slots are in use", what,
			       MAX_READERS);
	case MDB_MAP_FULL:
		return err_set(err, ENOSPC, "store index: %s: full", what);
	default:
		return err_set(err, rc > 0 ? rc : EIO, "store index: %s: %s", what,
			       mdb_strerror(rc));
	}
}

int index_txn_err(struct index_txn *txn, struct err *err, int rc, const char *what)
{
	if (rc == MDB_MAP_FULL)
		txn->full = true;
	return index_err(err, rc, what);
}

/* Adopt the size another process gave the map. No transaction of this process may be running. */
static int follow_resize(struct index *ix)
{
	pthread_rwlock_wrlock(&ix->map_lock);
	int rc = ix->env ? mdb_env_set_mapsize(ix->env, 0) : MDB_PANIC;
	pthread_rwlock_unlock(&ix->map_lock);
	return rc;
}

/*
 * Pages are read through the map, and one past the end of the file would kill the process. The
 * file may rightly end before the last page ever used (one used and freed in one transaction is
 * not written), or have been cut by an accident: either way zeros follow, which are no page.
 * fallocate(2) never shortens a file that another process is extending.
 */
static int fit_file(struct index *ix, const char *dir, struct err *err)
{
	cleanup_free char *path = NULL;
	MDB_envinfo info;
	MDB_stat st;
	struct stat sb;

	if (asprintf(&path, "%s/data.mdb", dir) < 0)
		return err_set(err, ENOMEM, "open store index: out of memory");
	/* Proven pages are all that is read, and on such a medium none can be added. */
	if (ix->nolock)
		return 0;
	/* By a descriptor of its own: the environment's may be read-only. */
	cleanup_fd int fd = open(path, O_RDWR | O_CLOEXEC);
	if (mdb_env_info(ix->env, &info) || mdb_env_stat(ix->env, &st) || stat(path, &sb) < 0)
		return err_errno(err, "measure store index");
	uint64_t want = ((uint64_t)info.me_last_pgno + 1) * st.ms_psize;
	if (want > MAP_SIZE_MAX)
		return err_set(err, EBADMSG, "store index: impossible size in its header");
	if ((uint64_t)sb.st_size >= want)
		return 0;
	if (fd < 0 || fallocate(fd, 0, (off_t)(want - st.ms_psize), st.ms_psize) < 0)
		return err_errno(err, "extend store index");
	return 0;
}

static int open_dbs(struct index *ix, bool create, struct err *err)
{
	static const char *const names[] = {"chunks", "nodes", "names",
					    "packs",  "meta",  "condemned"};
	MDB_dbi *const dbi[] = {&ix->chunks, &ix->nodes, &ix->names,
				&ix->packs,  &ix->meta,	 &ix->condemned};
	MDB_txn *txn;
	int rc = mdb_txn_begin(ix->env, NULL, ix->rdonly ? MDB_RDONLY : 0, &txn);

	if (rc == MDB_MAP_RESIZED && (rc = mdb_env_set_mapsize(ix->env, 0)) == 0)
		rc = mdb_txn_begin(ix->env, NULL, ix->rdonly ? MDB_RDONLY : 0, &txn);
	if (rc)
		return index_err(err, rc, "open");
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		rc = mdb_dbi_open(txn, names[i], create ? MDB_CREATE : 0, dbi[i]);
		if (rc) {
			mdb_txn_abort(txn);
			if (rc == MDB_NOTFOUND)
				return err_set(err, EBADMSG, "store index: database %s is missing",
					       names[i]);
			return index_err(err, rc, names[i]);
		}
	}
	rc = mdb_txn_commit(txn);
	return rc ? index_err(err, rc, "open") : 0;
}

/* The data and the note beside it, by descriptors of our own: LMDB shows none of its pages. */
static int open_files(struct index *ix, struct err *err)
{
	const char *path = ix->path;
	cleanup_fd int dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (dir >= 0)
		ix->datafd = openat(dir, "data.mdb", O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (ix->datafd < 0 && errno == ENOENT)
		return err_set(err, EBADMSG, "store index: %s/data.mdb is missing", path);
	if (ix->datafd < 0)
		return err_errno(err, "open store index %s", path);
	ix->sealfd = openat(dir, "seal", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (ix->sealfd < 0)
		ix->sealfd = openat(dir, "seal", O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	return 0;
}

/* Before LMDB reads anything: its headers, and that no commit has gone missing from it. */
static int check_head(struct index *ix, struct err *err)
{
	uint64_t noted = index_seal_txnid(ix);
	struct index_head head;
	int r = index_head_check(ix->datafd, &head, err);

	if (r == 0 && noted > head.txnid)
		return err_set(err, EBADMSG,
			       "store index: it ends with transaction %llu and had %llu",
			       (unsigned long long)head.txnid, (unsigned long long)noted);
	return r;
}

static int prove_pages(struct index *ix, struct err *err)
{
	int r = -EAGAIN;

	for (int i = 0; i < PROOF_TRIES && r == -EAGAIN; i++) {
		MDB_txn *txn;

		if (index_seal_holds(ix))
			return 0;
		int rc = mdb_txn_begin(ix->env, NULL, MDB_RDONLY, &txn);
		if (rc == MDB_MAP_RESIZED && (rc = mdb_env_set_mapsize(ix->env, 0)) == 0)
			rc = mdb_txn_begin(ix->env, NULL, MDB_RDONLY, &txn);
		if (rc)
			return index_err(err, rc, "open");
		r = index_pages_check(ix->datafd, mdb_txn_id(txn), err);
		mdb_txn_abort(txn);
	}
	if (r == 0)
		index_seal_write(ix);
	return r == -EAGAIN ? err_set(err, EBUSY, "open store index: written to all the time") : r;
}

/*
 * Readers of LMDB write themselves into a lock file, so that writers leave the pages they see
 * alone. Where that file cannot be written, on a read-only medium, there is no writer either.
 */
static bool cannot_lock(const struct index *ix)
{
	cleanup_free char *path = NULL;

	return ix->rdonly && asprintf(&path, "%s/lock.mdb", ix->path) >= 0 &&
	       access(path, W_OK) < 0 && (errno == EROFS || errno == EACCES || errno == EPERM);
}

static int env_start(struct index *ix, bool create, struct err *err)
{
	unsigned flags = MDB_NOTLS | MDB_NORDAHEAD | (ix->rdonly ? MDB_RDONLY : 0);
	int r = create ? 0 : open_files(ix, err);

	if (r == 0 && !create)
		r = check_head(ix, err);
	if (r < 0)
		return r;
	int rc = mdb_env_create(&ix->env);
	if (rc == 0)
		rc = mdb_env_set_mapsize(ix->env, MAP_SIZE_MIN);
	if (rc == 0)
		rc = mdb_env_set_maxreaders(ix->env, MAX_READERS);
	if (rc == 0)
		rc = mdb_env_set_maxdbs(ix->env, MAX_DBS);
	ix->nolock = !create && cannot_lock(ix);
	if (rc == 0)
		rc = mdb_env_open(ix->env, ix->path, flags | (ix->nolock ? MDB_NOLOCK : 0), 0600);
	r = rc ? index_err(err, rc, ix->path) : create ? 0 : prove_pages(ix, err);
	if (r == 0)
		r = fit_file(ix, ix->path, err);
	return r < 0 ? r : open_dbs(ix, create, err);
}

/* No transaction of this process may be running. */
static void env_stop(struct index *ix)
{
	while (ix->nkept)
		mdb_txn_abort(ix->kept[--ix->nkept]);
	if (ix->env)
		mdb_env_close(ix->env);
	if (ix->datafd >= 0)
		close(ix->datafd);
	if (ix->sealfd >= 0)
		close(ix->sealfd);
	ix->env = NULL;
	ix->datafd = ix->sealfd = -1;
}

/*
 * After a failed write of its meta page LMDB refuses every transaction, readers' too, for as long
 * as the environment is open. Opened again it has the state before that update or after it.
 * `opened` is what the caller saw: another thread may have been here first.
 */
static int reopen(struct index *ix, unsigned opened, struct err *err)
{
	int r = 0;

	pthread_rwlock_wrlock(&ix->map_lock);
	if (ix->opened == opened) {
		env_stop(ix);
		r = env_start(ix, false, err);
		if (r < 0)
			env_stop(ix);
		else
			ix->opened++;
	}
	pthread_rwlock_unlock(&ix->map_lock);
	return r < 0 ? err_wrap(err, r, "open the store index again") : 0;
}

int index_follow(struct index *ix, struct err *err)
{
	char path[PATH_MAX];
	struct stat there, ours;
	bool moved = false;

	if (snprintf(path, sizeof(path), "%s/data.mdb", ix->path) >= (int)sizeof(path) ||
	    stat(path, &there) < 0)
		return 0;
	pthread_rwlock_rdlock(&ix->map_lock);
	unsigned opened = ix->opened;
	if (ix->datafd >= 0 && fstat(ix->datafd, &ours) == 0)
		moved = ours.st_ino != there.st_ino || ours.st_dev != there.st_dev;
	pthread_rwlock_unlock(&ix->map_lock);
	return moved ? reopen(ix, opened, err) : 0;
}

static int grow(struct index *ix, struct err *err)
{
	MDB_envinfo info = {0};
	int rc;

	pthread_rwlock_wrlock(&ix->map_lock);
	if (!ix->env)
		rc = MDB_PANIC;
	else if (mdb_env_info(ix->env, &info), info.me_mapsize >= MAP_SIZE_MAX)
		rc = MDB_MAP_FULL;
	else
		rc = mdb_env_set_mapsize(ix->env, info.me_mapsize * 2);
	pthread_rwlock_unlock(&ix->map_lock);
	return rc ? index_err(err, rc, "grow") : 0;
}

static MDB_txn *kept_take(struct index *ix)
{
	MDB_txn *txn = NULL;

	pthread_mutex_lock(&ix->kept_lock);
	if (ix->nkept)
		txn = ix->kept[--ix->nkept];
	pthread_mutex_unlock(&ix->kept_lock);
	return txn;
}

static int begin_once(struct index *ix, MDB_txn **out)
{
	MDB_txn *txn = kept_take(ix);

	if (!ix->env)
		return MDB_PANIC;
	if (txn) {
		int rc = mdb_txn_renew(txn);

		if (rc == 0)
			*out = txn;
		else
			mdb_txn_abort(txn);
		return rc;
	}
	return mdb_txn_begin(ix->env, NULL, MDB_RDONLY, out);
}

/* Begin a transaction, and keep map_lock for as long as it lasts. */
static int begin(struct index *ix, bool write, MDB_txn **out, struct err *err)
{
	for (int tries = 0;; tries++) {
		int rc, r;

		pthread_rwlock_rdlock(&ix->map_lock);
		if (!write)
			rc = begin_once(ix, out);
		else
			rc = ix->env ? mdb_txn_begin(ix->env, NULL, 0, out) : MDB_PANIC;
		if (rc == 0)
			return 0;
		unsigned opened = ix->opened;
		pthread_rwlock_unlock(&ix->map_lock);
		if (rc == MDB_PANIC && tries == 0) {
			if ((r = reopen(ix, opened, err)) < 0)
				return r;
			continue;
		}
		if (rc == MDB_MAP_RESIZED && tries < 8)
			rc = follow_resize(ix);
		else if (rc == MDB_READERS_FULL && tries == 0)
			rc = mdb_reader_check(ix->env, NULL);
		if (rc != 0)
			return index_err(err, rc, write ? "begin update" : "read");
	}
}

int index_read_begin(struct index *ix, MDB_txn **txn, struct err *err)
{
	return begin(ix, false, txn, err);
}

void index_read_end(struct index *ix, MDB_txn *txn)
{
	mdb_txn_reset(txn);
	pthread_mutex_lock(&ix->kept_lock);
	if (ix->nkept < READERS_KEPT) {
		ix->kept[ix->nkept++] = txn;
		txn = NULL;
	}
	pthread_mutex_unlock(&ix->kept_lock);
	if (txn)
		mdb_txn_abort(txn);
	pthread_rwlock_unlock(&ix->map_lock);
}

int index_update(struct index *ix, index_fn fn, void *arg, struct err *err)
{
	for (;;) {
		struct index_txn txn = {.ix = ix};
		int r = begin(ix, true, &txn.txn, err);

		if (r < 0)
			return r;
		/* Within the transaction: what is proven now differs after it by it alone. */
		bool sealed = index_seal_holds(ix);
		r = fn(&txn, arg, err);
		if (r < 0) {
			mdb_txn_abort(txn.txn);
		} else {
			int rc = mdb_txn_commit(txn.txn);

			r = rc ? index_txn_err(&txn, err, rc, "commit") : 0;
			if (r == 0 && sealed)
				index_seal_write(ix);
		}
		pthread_rwlock_unlock(&ix->map_lock);
		if (!txn.full)
			return r;
		err_clear(err);
		r = grow(ix, err);
		if (r < 0)
			return r;
	}
}

static int index_new(const char *path, bool rdonly, bool create, struct index **out,
		     struct err *err)
{
	struct index *ix = calloc(1, sizeof(*ix));

	if (!ix)
		return err_set(err, ENOMEM, "open store index: out of memory");
	ix->rdonly = rdonly;
	ix->datafd = ix->sealfd = -1;
	ix->path = strdup(path);
	pthread_rwlock_init(&ix->map_lock, NULL);
	pthread_mutex_init(&ix->kept_lock, NULL);
	int r = ix->path ? env_start(ix, create, err)
			 : err_set(err, ENOMEM, "open store index: out of memory");
	if (r < 0) {
		index_close(ix);
		return r;
	}
	*out = ix;
	return 0;
}

int index_open(const char *path, bool rdonly, struct index **out, struct err *err)
{
	return index_new(path, rdonly, false, out, err);
}

int index_create(const char *path, struct err *err)
{
	struct index *ix;
	int r = index_new(path, false, true, &ix, err);

	if (r < 0)
		return r;
	index_close(ix);
	/* LMDB syncs its file, but not the entry of it. */
	cleanup_fd int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || fsync(fd) < 0)
		return err_errno(err, "sync %s", path);
	return 0;
}

void index_close(struct index *ix)
{
	if (!ix)
		return;
	env_stop(ix);
	free(ix->path);
	pthread_rwlock_destroy(&ix->map_lock);
	pthread_mutex_destroy(&ix->kept_lock);
	free(ix);
}

void index_drop_stale_readers(struct index *ix)
{
	pthread_rwlock_rdlock(&ix->map_lock);
	if (ix->env)
		mdb_reader_check(ix->env, NULL);
	pthread_rwlock_unlock(&ix->map_lock);
}
