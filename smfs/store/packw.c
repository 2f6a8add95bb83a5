#include "smfs/store/packw.h"

#include "smfs/base/cleanup.h"
#include "smfs/base/io.h"
#include "smfs/base/log.h"
#include "smfs/store/ingest.h"

#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/uio.h>

/* Writeback is started every so many bytes, so that the sync at commit finds little to do. */
#define WRITEBACK_STEP (8 * MIB)

struct out_pack {
	uint64_t id;
	uint64_t base; /* durable length when taken */
	uint64_t len;  /* reserved so far */
	uint64_t writeback;
	int fd;
	bool fresh;
};

struct packw {
	struct smfs_store *s;
	pthread_mutex_t lock;
	struct out_pack *packs; /* the last one is being appended to */
	size_t n;
	bool kept;
};

int packw_new(struct smfs_store *s, struct packw **out, struct err *err)
{
	struct packw *w = calloc(1, sizeof(*w));

	if (!w)
		return err_set(err, ENOMEM, "start pack writer: out of memory");
	w->s = s;
	pthread_mutex_init(&w->lock, NULL);
	*out = w;
	return 0;
}

/* 1 = taken; 0 = owned by another writer, gone or damaged: try another. */
static int take_pack(struct smfs_store *s, uint64_t id, struct out_pack *out, struct err *err)
{
	uint8_t buf[PACK_HEAD_LEN];
	char name[PACK_NAME_LEN];
	struct pack_head h;
	struct stat st;
	uint64_t len;

	cleanup_fd int fd =
		openat(packs_dirfd(s->packs), pack_name(id, name), O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) < 0)
		return 0;
	/* Only now is the length final: its last owner may have committed since we listed it. */
	int r = index_pack_len(s->ix, id, &len, err);
	if (r < 0)
		return r;
	if (r == 0 || len >= PACK_MAX || fstat(fd, &st) < 0 || st.st_nlink == 0)
		return 0;
	r = pread_full(fd, buf, sizeof(buf), 0);
	if (r < 0 && (uint64_t)st.st_size >= sizeof(buf)) {
		log_warn("pack %s will not be appended to: %s", name, strerror(-r));
		return 0;
	}
	if (r < 0 || pack_head_decode(buf, &h) < 0 || h.id != id ||
	    memcmp(h.uuid, s->uuid, UUID_LEN) != 0 || (uint64_t)st.st_size < len) {
		log_warn("pack %s is damaged and will not be appended to; run `smfs fsck`", name);
		return 0;
	}
	if ((uint64_t)st.st_size > len) {
		if ((r = commit_settle(s, err)) < 0)
			return r;
		if (ftruncate(fd, (off_t)len) < 0)
			return err_errno(err, "truncate pack %s", name);
	}
	*out = (struct out_pack){
		.id = id, .base = len, .len = len, .writeback = len, .fd = steal_fd(&fd)};
	return 1;
}

static int reuse_pack(struct smfs_store *s, struct out_pack *out, struct err *err)
{
	cleanup_free struct index_pack *v = NULL;
	size_t n;
	int r = index_packs(s->ix, &v, &n, err);

	for (size_t i = 0; r == 0 && i < n; i++)
		if (v[i].len < PACK_MAX)
			r = take_pack(s, v[i].id, out, err);
	return r;
}

/*
 * Made and locked under tmp/ and then renamed, so that a pack seen in packs/ without an owner
 * and unknown to the index is certainly of a writer that died.
 */
static int new_pack_once(struct smfs_store *s, struct out_pack *out, struct err *err)
{
	struct pack_head h = {.created = (uint64_t)now_ns()};
	uint8_t buf[PACK_HEAD_LEN];
	char name[PACK_NAME_LEN], tmp[PACK_NAME_LEN + 8];

	if (getrandom(&h.id, sizeof(h.id), 0) != sizeof(h.id))
		return err_errno(err, "new pack: random id");
	memcpy(h.uuid, s->uuid, UUID_LEN);
	pack_head_encode(&h, buf);
	snprintf(tmp, sizeof(tmp), "tmp/%s", pack_name(h.id, name));
	cleanup_fd int fd = openat(s->dirfd, tmp, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return err_errno(err, "create pack in %s/tmp", s->dir);
	if (flock(fd, LOCK_EX | LOCK_NB) < 0)
		return err_errno(err, "lock new pack %s", name);
	int r = pwrite_full(fd, buf, sizeof(buf), 0);
	if (r == 0 && renameat2(s->dirfd, tmp, packs_dirfd(s->packs), name, RENAME_NOREPLACE) < 0)
		r = -errno;
	if (r < 0) {
		unlinkat(s->dirfd, tmp, 0);
		errno = -r;
		return err_errno(err, "create pack %s", name);
	}
	*out = (struct out_pack){
		.id = h.id, .len = PACK_HEAD_LEN, .fresh = true, .fd = steal_fd(&fd)};
	return 1;
}

static int new_pack(struct smfs_store *s, struct out_pack *out, struct err *err)
{
	int r = 0;

	/* A cleaning process may take the file between its creation and our lock. */
	for (int tries = 0; tries < 8; tries++) {
		r = new_pack_once(s, out, err);
		if (r != -ENOENT && r != -EWOULDBLOCK && r != -EEXIST)
			break;
	}
	return r;
}

static int add_pack(struct packw *w, struct err *err)
{
	struct out_pack *v = reallocarray(w->packs, w->n + 1, sizeof(*v));

	if (!v)
		return err_set(err, ENOMEM, "open pack: out of memory");
	w->packs = v;
	int r = reuse_pack(w->s, &v[w->n], err);
	if (r == 0)
		r = new_pack(w->s, &v[w->n], err);
	if (r < 0)
		return r;
	w->n++;
	return 0;
}

/* Reserve `len` bytes. *from..*to is what should go to disk by now (empty mostly). */
static int reserve(struct packw *w, uint64_t len, struct out_pack *at, uint64_t *from, uint64_t *to,
		   struct err *err)
{
	int r = 0;

	pthread_mutex_lock(&w->lock);
	if (w->n == 0 || w->packs[w->n - 1].len + len > PACK_MAX)
		r = add_pack(w, err);
	if (r == 0) {
		struct out_pack *p = &w->packs[w->n - 1];

		*at = *p;
		p->len += len;
		*from = *to = p->writeback;
		if (at->len - p->writeback >= WRITEBACK_STEP)
			*to = p->writeback = at->len;
	}
	pthread_mutex_unlock(&w->lock);
	return r;
}

static int pwritev_full(int fd, struct iovec *v, int n, uint64_t off)
{
	while (n) {
		ssize_t r = pwritev(fd, v, n, (off_t)off);

		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return -errno;
		off += r;
		for (; n && (size_t)r >= v->iov_len; v++, n--)
			r -= (ssize_t)v->iov_len;
		if (n) {
			v->iov_base = (char *)v->iov_base + r;
			v->iov_len -= r;
		}
	}
	return 0;
}

int packw_append(struct packw *w, struct frame_head *h, const void *payload, struct frame_loc *loc,
		 struct err *err)
{
	static const uint8_t zero[FRAME_ALIGN];
	uint8_t head[FRAME_HEAD_LEN];
	uint64_t len = frame_disk_len(h->stored_len), from = 0, to = 0;
	struct out_pack at = {.fd = -1};
	int r = reserve(w, len, &at, &from, &to, err);

	if (r < 0)
		return r;
	frame_head_encode(h, payload, head);
	struct iovec v[3] = {
		{head, FRAME_HEAD_LEN},
		{(void *)payload, h->stored_len},
		{(void *)zero, len - FRAME_HEAD_LEN - h->stored_len},
	};
	r = pwritev_full(at.fd, v, v[2].iov_len ? 3 : 2, at.len);
	if (r < 0) {
		errno = -r;
		return err_errno(err, "append to pack %016" PRIx64, at.id);
	}
	/* Best effort: only packw_sync() promises anything. */
	if (to > from)
		sync_file_range(at.fd, (off_t)from, (off_t)(to - from), SYNC_FILE_RANGE_WRITE);
	*loc = (struct frame_loc){.pack = at.id,
				  .off = at.len,
				  .stored_len = h->stored_len,
				  .raw_len = h->raw_len,
				  .kind = h->kind,
				  .codec = h->codec};
	return 0;
}

int packw_sync(struct packw *w, struct err *err)
{
	bool fresh = false;

	for (size_t i = 0; i < w->n; i++) {
		if (fdatasync(w->packs[i].fd) < 0)
			return err_errno(err, "sync pack %016" PRIx64, w->packs[i].id);
		fresh |= w->packs[i].fresh;
	}
	if (fresh && fsync(packs_dirfd(w->s->packs)) < 0)
		return err_errno(err, "sync %s/packs", w->s->dir);
	return 0;
}

size_t packw_count(const struct packw *w)
{
	return w->n;
}

void packw_at(const struct packw *w, size_t i, uint64_t *pack, uint64_t *len)
{
	*pack = w->packs[i].id;
	*len = w->packs[i].len;
}

void packw_keep(struct packw *w)
{
	w->kept = true;
}

static void discard(struct packw *w, struct out_pack *p)
{
	char name[PACK_NAME_LEN];

	/* A failure leaves garbage that the next writer cuts off. */
	if (p->fresh)
		unlinkat(packs_dirfd(w->s->packs), pack_name(p->id, name), 0);
	else if (ftruncate(p->fd, (off_t)p->base) < 0)
		log_debug("truncate pack %016" PRIx64 ": %m", p->id);
}

void packw_free(struct packw *w)
{
	if (!w)
		return;
	/* A record that could not be synced may be in the journal all the same. */
	bool keep = w->kept || (w->n && commit_settle(w->s, NULL) < 0);
	for (size_t i = 0; i < w->n; i++) {
		if (!keep)
			discard(w, &w->packs[i]);
		close(w->packs[i].fd);
	}
	pthread_mutex_destroy(&w->lock);
	free(w->packs);
	free(w);
}

/* ---- cleaning ---- */

/* Unlink unless its writer lives, or (a pack) the index knows it. */
static void clean_file(struct smfs_store *s, int dirfd, const char *name, bool pack, uint64_t id)
{
	uint64_t len;
	cleanup_fd int fd = openat(dirfd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);

	if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) < 0)
		return;
	if (pack && (index_pack_len(s->ix, id, &len, NULL) != 0 || commit_settle(s, NULL) < 0))
		return;
	unlinkat(dirfd, name, 0);
}

static void clean_dir(struct smfs_store *s, const char *sub, bool packs)
{
	cleanup_fd int fd = openat(s->dirfd, sub, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	cleanup_dir DIR *d = fd < 0 ? NULL : fdopendir(dup(fd));
	struct dirent *e;
	uint64_t id = 0, len;

	while (d && (e = readdir(d))) {
		if (e->d_name[0] == '.')
			continue;
		if (packs && (!pack_name_parse(e->d_name, &id) ||
			      index_pack_len(s->ix, id, &len, NULL) != 0))
			continue;
		clean_file(s, fd, e->d_name, packs, id);
	}
}

void packw_clean(struct smfs_store *s)
{
	clean_dir(s, "tmp", false);
	clean_dir(s, "packs", true);
}
