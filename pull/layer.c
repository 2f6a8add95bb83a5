#include "pull/layer.h"

#include <archive.h>
#include <archive_entry.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>

#include "pull/tree.h"
#include "pull/tree_store.h"
#include "pull/unpack.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/err.h"
#include "smfs/base/num.h"

#define TAR_BLOCK     512u
#define WHITEOUT      ".wh."
#define WHITEOUT_META ".wh..wh."
#define WHITEOUT_OPQ  ".wh..wh..opq"
/* Up to one frame a file is one chunk: cheaper in one call than as a stream. */
#define SMALL_FILE (64u << 10)

static uint64_t tar_padding(uint64_t size)
{
	return -size % TAR_BLOCK;
}

struct layer {
	struct smfs_ingest *ing;
	struct unpack *in;
	struct archive *a;
	struct tree *t;
	_Atomic uint64_t *budget; /* bytes of file size still allowed */
	struct err *err;
	uint64_t total;	  /* bytes of the stream so far */
	uint64_t padding; /* of the current file */
	bool ended;
	int read_error; /* of the stream below libarchive, with `err` filled */
	uint8_t small[SMALL_FILE];
};

/* ---- libarchive --------------------------------------------------------------------------- */

/*
 * Some writers (umoci insert) leave out the padding of the last file and the end-of-archive blocks,
 * and Go's reader does not mind. What is missing is added here; after_data() sees that it is never
 * data.
 */
static la_ssize_t on_read(struct archive *a, void *arg, const void **piece)
{
	static const uint8_t zeros[3 * TAR_BLOCK];
	struct layer *l = arg;
	ssize_t n;

	if (l->ended)
		return 0;
	n = unpack_read(l->in, piece, l->err);
	if (n == 0) {
		uint64_t padding = tar_padding(l->total);

		l->ended = true;
		*piece = zeros;
		/* Only behind a file's data: a header cut short stays cut short. */
		return padding && padding != l->padding ? 0 : 2 * TAR_BLOCK + padding;
	}

	if (n < 0) {
		l->read_error = (int)n;
		archive_set_error(a, EIO, "stream failed");
		return ARCHIVE_FATAL;
	}
	l->total += n;
	return n;
}

static int archive_failed(struct layer *l, const char *what)
{
	const char *why = archive_error_string(l->a);

	if (l->read_error)
		return l->read_error;
	return err_set(l->err, EBADMSG, "%.200s: %s", what, why ? why : "not a valid tar archive");
}

static int open_archive(struct layer *l)
{
	l->a = archive_read_new();
	if (!l->a)
		return err_set(l->err, ENOMEM, "read layer: out of memory");
	if (archive_read_support_format_tar(l->a) != ARCHIVE_OK ||
	    archive_read_support_format_empty(l->a) != ARCHIVE_OK ||
	    archive_read_open(l->a, l, NULL, on_read, NULL) != ARCHIVE_OK)
		return archive_failed(l, "open archive");
	return 0;
}

/* The file just read to its end lay within the stream. A sparse file's padding is not known: none
 * is granted. */
static int after_data(struct layer *l, const char *path)
{
	uint64_t at = archive_filter_bytes(l->a, -1);

	if (l->ended && at > l->total + l->padding)
		return err_set(l->err, EBADMSG, "%.200s: the archive ends in the middle of it",
			       path);
	return 0;
}

/* ---- contents ----------------------------------------------------------------------------- */

/* All data blocks of the current entry, as (offset, bytes) in ascending order. */
typedef int (*data_fn)(struct layer *l, const void *p, size_t n, uint64_t off, void *arg);

static int each_block(struct layer *l, const char *path, uint64_t size, data_fn fn, void *arg)
{
	uint64_t pos = 0;

	for (;;) {
		const void *p;
		la_int64_t off;
		size_t n;
		int a = archive_read_data_block(l->a, &p, &n, &off), r;

		if (a == ARCHIVE_EOF)
			return 0;
		if (a != ARCHIVE_OK)
			return archive_failed(l, path);
		if (n == 0)
			continue;
		if (off < 0 || (uint64_t)off < pos || !range_ok(off, n, size))
			return err_set(l->err, EBADMSG,
				       "%.200s: data out of order or beyond its size", path);
		r = fn(l, p, n, off, arg);
		if (r < 0)
			return r;
		pos = (uint64_t)off + n;
	}
}

static int to_memory(struct layer *l, const void *p, size_t n, uint64_t off, void *arg)
{
	memcpy(l->small + off, p, n);
	return 0;
}

struct streaming {
	struct smfs_stream *st;
	uint64_t pos;
};

static int to_stream(struct layer *l, const void *p, size_t n, uint64_t off, void *arg)
{
	struct streaming *s = arg;
	int r = 0;

	if (off > s->pos)
		r = smfs_stream_hole(s->st, off - s->pos, l->err);
	if (r == 0)
		r = smfs_stream_write(s->st, p, n, l->err);
	s->pos = off + n;
	return r;
}

static int read_contents(struct layer *l, const char *path, uint64_t size, struct smfs_content *out)
{
	struct streaming s = {0};
	int r;

	if (size <= SMALL_FILE) {
		memset(l->small, 0, size);
		r = each_block(l, path, size, to_memory, NULL);
		return r < 0 ? r : smfs_ingest_mem(l->ing, l->small, size, out, l->err);
	}
	r = smfs_stream_open(l->ing, 0, &s.st, l->err);
	if (r < 0)
		return r;
	r = each_block(l, path, size, to_stream, &s);
	if (r == 0 && s.pos < size)
		r = smfs_stream_hole(s.st, size - s.pos, l->err);
	if (r < 0) {
		smfs_stream_abort(s.st);
		return r;
	}
	return smfs_stream_finish(s.st, out, l->err);
}

/* ---- entries ------------------------------------------------------------------------------ */

static int read_xattrs(struct layer *l, struct archive_entry *e, struct tinode *i)
{
	const char *name;
	const void *value;
	size_t len;

	archive_entry_xattr_reset(e);
	while (archive_entry_xattr_next(e, &name, &value, &len) == ARCHIVE_OK) {
		int r;

		/* These speak to overlayfs and to us about layers: from an archive they would lie.
		 */
		if (strncmp(name, "trusted.overlay.", 16) == 0 ||
		    strncmp(name, "trusted.smfs.", 13) == 0)
			continue;
		r = tinode_add_xattr(i, name, value, len, l->err);
		if (r < 0)
			return r;
	}
	return 0;
}

static bool take_budget(struct layer *l, uint64_t n)
{
	uint64_t have = atomic_load(l->budget);

	while (have >= n)
		if (atomic_compare_exchange_weak(l->budget, &have, have - n))
			return true;
	return false;
}

static int read_inode(struct layer *l, struct archive_entry *e, const char *path, struct tinode *i)
{
	la_int64_t uid = archive_entry_uid(e), gid = archive_entry_gid(e),
		   size = archive_entry_size(e);
	unsigned type = archive_entry_filetype(e);

	/* (uid_t)-1 means "no owner" to every chown. */
	if (uid < 0 || gid < 0 || uid >= UINT32_MAX || gid >= UINT32_MAX)
		return err_set(l->err, EBADMSG, "%.200s: owner %lld:%lld is out of range", path,
			       (long long)uid, (long long)gid);
	i->mode = type | (archive_entry_perm(e) & 07777);
	i->uid = uid;
	i->gid = gid;
	i->mtime_sec = archive_entry_mtime(e);
	i->mtime_nsec = archive_entry_mtime_nsec(e);
	if (i->mtime_nsec >= 1000000000)
		return err_set(l->err, EBADMSG, "%.200s: its time is malformed", path);
	switch (type) {
	case AE_IFREG:
		if (size < 0 || !take_budget(l, size))
			return err_set(l->err, EFBIG,
				       "%.200s: with its %lld bytes the image's files are more "
				       "than allowed; raise "
				       "--max-size if that is right",
				       path, (long long)size);
		break;
	case AE_IFLNK: {
		const char *target = archive_entry_symlink(e);

		if (!target || !*target || strlen(target) > SMFS_LINK_MAX)
			return err_set(l->err, EBADMSG,
				       "%.200s: a symlink to nothing or too long a path", path);
		i->mode = S_IFLNK | 0777;
		i->target = strdup(target);
		if (!i->target)
			return err_set(l->err, ENOMEM, "%.200s: out of memory", path);
		break;
	}
	case AE_IFCHR:
	case AE_IFBLK:
		i->rdev_major = archive_entry_rdevmajor(e);
		i->rdev_minor = archive_entry_rdevminor(e);
		break;
	case AE_IFDIR:
	case AE_IFIFO:
		break;
	default:
		return err_set(l->err, EBADMSG, "%.200s: file type %o has no place in a layer",
			       path, type);
	}
	return read_xattrs(l, e, i);
}

static int put_hard_link(struct layer *l, struct tnode *dir, const char *name, const char *path,
			 const char *link)
{
	char target[TREE_PATH_MAX];
	struct tnode *n = NULL;
	struct tinode *i;
	int r = path_clean(link, target, l->err);

	if (r == 0)
		r = tree_lookup(l->t, target, &n, l->err);
	if (r < 0 && r != -ENOENT)
		return r;
	if (!target[0] || (n && tnode_is_dir(n)))
		return err_set(l->err, EBADMSG, "%.200s: a hard link to the directory %.200s", path,
			       link);
	if (n && n->parent == dir && strcmp(n->name, name) == 0)
		return err_set(l->err, EBADMSG, "%.200s: a hard link to itself", path);
	if (n && n->kind == NODE_PLAIN)
		return tree_put(l->t, dir, name, NODE_PLAIN, tinode_get(n->inode), NULL, l->err);
	/* Not in this layer: a file of a lower one, found when the layers are merged. */
	i = tinode_new(S_IFLNK | 0777);
	if (i && n && n->kind == NODE_LOWER)
		i->target = strdup(n->inode->target);
	else if (i && asprintf(&i->target, "/%s", target) < 0)
		i->target = NULL;
	if (!i || !i->target) {
		tinode_put(i);
		return err_set(l->err, ENOMEM, "%.200s: out of memory", path);
	}
	return tree_put(l->t, dir, name, NODE_LOWER, i, NULL, l->err);
}

static int put_whiteout(struct layer *l, struct tnode *dir, const char *name, const char *path)
{
	const char *hidden = name + strlen(WHITEOUT);
	struct tnode *n;

	if (strcmp(name, WHITEOUT_OPQ) == 0) {
		dir->dir_opaque = true;
		return 0;
	}
	if (strncmp(name, WHITEOUT_META, strlen(WHITEOUT_META)) == 0)
		return 0; /* AUFS's own bookkeeping, as docker skips it */
	if (!*hidden || strcmp(hidden, ".") == 0 || strcmp(hidden, "..") == 0)
		return err_set(l->err, EBADMSG, "%.200s: a whiteout of no name", path);
	n = tnode_find(dir, hidden);
	if (!n)
		return tree_put(l->t, dir, hidden, NODE_WHITEOUT, NULL, NULL, l->err);
	/* The layer has that name itself: only what is below it goes. */
	if (tnode_is_dir(n))
		n->dir_opaque = true;
	return 0;
}

/* A directory entry for a directory that is there already gives it its attributes. */
static int put_dir(struct layer *l, struct tnode *dir, const char *name, struct tinode *i)
{
	struct tnode *old = name ? tnode_find(dir, name) : dir, *n;
	int r;

	if (old && tnode_is_dir(old)) {
		tinode_put(old->inode);
		old->inode = i;
		old->dir_implied = false;
		return 0;
	}
	bool hides = old && old->kind == NODE_WHITEOUT;

	r = tree_put(l->t, dir, name, NODE_PLAIN, i, &n, l->err);
	if (r == 0)
		n->dir_opaque = hides;
	return r;
}

static int read_entry(struct layer *l, struct archive_entry *e)
{
	const char *raw = archive_entry_pathname(e), *link = archive_entry_hardlink(e), *name;
	char path[TREE_PATH_MAX], parent[TREE_PATH_MAX];
	struct tinode *i = NULL;
	struct tnode *dir;
	int r;

	l->padding = 0;
	if (archive_entry_filetype(e) == AE_IFREG && !link && !archive_entry_sparse_count(e))
		l->padding = tar_padding(archive_entry_size(e));
	if (!raw || !*raw)
		return err_set(l->err, EBADMSG, "archive: an entry without a usable name");
	r = path_clean(raw, path, l->err);
	if (r < 0)
		return r;
	if (!path[0]) {
		if (archive_entry_filetype(e) != AE_IFDIR || link)
			return err_set(l->err, EBADMSG, "%.100s: the root must be a directory",
				       raw);
		name = NULL;
		dir = l->t->root;
	} else {
		name = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
		memcpy(parent, path, name - path);
		parent[name - path] = '\0';
		r = tree_walk_dir(l->t, l->t->root, parent, WALK_CREATE, &dir, l->err);
		if (r < 0)
			return err_wrap(l->err, r, "%.200s", path);
	}
	if (name && strncmp(name, WHITEOUT, strlen(WHITEOUT)) == 0)
		return put_whiteout(l, dir, name, path);
	if (name && link)
		return put_hard_link(l, dir, name, path, link);

	i = tinode_new(0);
	if (!i)
		return err_set(l->err, ENOMEM, "%.200s: out of memory", path);
	r = read_inode(l, e, path, i);
	if (r == 0 && S_ISREG(i->mode))
		r = read_contents(l, path, archive_entry_size(e), &i->content);
	if (r == 0 && S_ISREG(i->mode))
		r = after_data(l, path);
	if (r < 0) {
		tinode_put(i);
		return r;
	}
	if (S_ISDIR(i->mode))
		return put_dir(l, dir, name, i);
	if (S_ISCHR(i->mode) && !i->rdev_major && !i->rdev_minor) {
		/* overlayfs's own whiteout, packed as it is. */
		tinode_put(i);
		return tree_put(l->t, dir, name, NODE_WHITEOUT, NULL, NULL, l->err);
	}
	return tree_put(l->t, dir, name, NODE_PLAIN, i, NULL, l->err);
}

int layer_read(struct smfs_ingest *ing, struct unpack *in, _Atomic uint64_t *budget,
	       struct tree **out, struct err *err)
{
	cleanup_free struct layer *l = calloc(1, sizeof(*l));
	struct archive_entry *e;
	int a = ARCHIVE_OK, r;

	if (l)
		*l = (struct layer){
			.ing = ing, .in = in, .t = tree_new(), .budget = budget, .err = err};
	if (!l || !l->t)
		return err_set(err, ENOMEM, "read layer: out of memory");
	r = open_archive(l);
	while (r == 0 && (a = archive_read_next_header(l->a, &e)) == ARCHIVE_OK) {
		r = read_entry(l, e);
		tree_reap(l->t);
	}
	/* A warning is a name or attribute libarchive could not take over as it is. */
	if (r == 0 && a != ARCHIVE_EOF)
		r = archive_failed(l, archive_entry_pathname(e) && a == ARCHIVE_WARN
					      ? archive_entry_pathname(e)
					      : "archive");
	archive_read_free(l->a);
	if (r < 0) {
		tree_free(l->t);
		return r;
	}
	*out = l->t;
	return 0;
}
