/*
 * tree.c - what is in the store: directories, regular files, symbolic links and devices.
 *
 * None of it ever changes, so the kernel may cache all of it for ever. Which inode a thing is:
 * a directory is one per place (the kernel cannot have a directory in two); a file of a snapshot
 * or an image is one per content, so that equal files of many names are cached once; anything in
 * a root file system is one per entry of a directory object, or per hard link group.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>

#include "smfs/base/log.h"
#include "smfs/base/num.h"
#include "smfs/mount/fs.h"
#include "smfs/mount/hot.h"
#include "smfs/mount/readahead.h"

int tree_dir_new(struct smfs_mount *m, struct inode *parent, const char *name,
		 const struct node_key *key, enum place place, const struct smfs_id *id,
		 const struct smfs_id *tree, struct inode **out, struct err *err)
{
	struct inode *i = inode_new(m, parent, name, &tree_dir_ops, key, S_IFDIR | 0555, err);

	if (!i)
		return -ENOMEM;
	i->place = place;
	i->keep_cache = true;
	i->dir = *id;
	i->tree = *tree;
	*out = i;
	return 0;
}

int tree_dir(struct smfs_mount *m, struct inode *i, struct smfs_dir **out, struct err *err)
{
	struct dirobj *obj = atomic_load(&i->obj);

	if (!obj) {
		struct dirobj *mine, *none = NULL;
		char path[INODE_PATH_MAX];
		int r = dircache_get(&m->dirs, &i->dir, &mine, err);

		if (r < 0)
			return err_wrap(err, r, "read directory %s", inode_path(i, path));
		if (atomic_compare_exchange_strong(&i->obj, &none, mine)) {
			obj = mine;
		} else {
			dircache_put(&m->dirs, mine);
			obj = none;
		}
	}
	*out = obj->dir;
	return 0;
}

int tree_file(struct smfs_mount *m, struct inode *i, struct smfs_file **out, struct err *err)
{
	struct smfs_file *f = atomic_load(&i->file);

	if (!f) {
		struct smfs_file *mine, *none = NULL;
		char path[INODE_PATH_MAX];
		int r = smfs_file_open(m->store, &i->content, &mine, err);

		if (r < 0)
			return err_wrap(err, r, "open %s", inode_path(i, path));
		if (atomic_compare_exchange_strong(&i->file, &none, mine)) {
			f = mine;
		} else {
			smfs_file_close(mine);
			f = none;
		}
	}
	*out = f;
	return 0;
}

void tree_destroy(struct inode *i)
{
	if (i->file)
		smfs_file_close(i->file);
	hot_forget(i);
	dircache_put(&i->mount->dirs, i->obj);
	dircache_put(&i->mount->dirs, i->in);
}

static struct node_key entry_key(const struct inode *dir, const struct smfs_entry *e, size_t index)
{
	if (S_ISDIR(e->mode))
		return (struct node_key){
			.tag = KEY_DIR, .a = dir->node.ino, .b = index, .id = e->dir};
	if (dir->place != IN_TREE && S_ISREG(e->mode))
		return (struct node_key){
			.tag = KEY_BLOB,
			.a = e->content.size,
			.b = (uint64_t)dir->place << 16 | (uint64_t)e->content.kind << 8 |
			     e->content.depth,
			.id = e->content.id,
		};
	if (e->link)
		return (struct node_key){.tag = KEY_LINK, .a = e->link, .id = dir->tree};
	/*
	 * mkfs.erofs takes one inode in two places for a hard link, whatever its link count: in a
	 * tree served alone, equal directories do not share their files.
	 */
	bool alone = dir->mount->root->place == IN_TREE;

	return (struct node_key){
		.tag = KEY_ENTRY, .a = index, .b = alone ? dir->node.ino : 0, .id = dir->dir};
}

/* The files of a snapshot or an image: same content, same inode, so the same attributes. */
static void set_uniform(struct inode *i)
{
	mode_t perm = i->place == IN_SNAPSHOT ? 0400 : 0444;

	if (S_ISDIR(i->st.st_mode))
		perm |= perm >> 2;
	i->st.st_mode = (i->st.st_mode & S_IFMT) | perm;
}

static void set_from_entry(struct inode *i, const struct smfs_entry *e)
{
	i->st.st_mode = e->mode;
	i->st.st_uid = e->uid;
	i->st.st_gid = e->gid;
	i->st.st_mtim.tv_sec = e->mtime_sec;
	i->st.st_mtim.tv_nsec = e->mtime_nsec;
	if (!S_ISDIR(e->mode) && e->link && e->nlink > 1)
		i->st.st_nlink = e->nlink;
	if (S_ISCHR(e->mode) || S_ISBLK(e->mode))
		i->st.st_rdev = makedev(e->rdev_major, e->rdev_minor);
	if (S_ISLNK(e->mode))
		i->st.st_size = (off_t)strlen(e->target);
}

static bool hides(const struct inode *dir)
{
	return dir->place == IN_SNAPSHOT && dir->seq;
}

/* The index of an entry in its directory: entries are an array seen through smfs_dir_at(). */
static bool find_entry(struct smfs_dir *d, const char *name, const struct smfs_entry **e,
		       size_t *index)
{
	size_t lo = 0, hi = smfs_dir_count(d);

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		int c = strcmp(smfs_dir_at(d, mid)->name, name);

		if (c == 0) {
			*e = smfs_dir_at(d, mid);
			*index = mid;
			return true;
		}
		if (c < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	return false;
}

static int new_child(struct smfs_mount *m, struct inode *dir, const struct smfs_entry *e,
		     size_t index, struct inode **out, struct err *err)
{
	const struct inode_ops *ops;

	if (S_ISDIR(e->mode))
		ops = &tree_dir_ops;
	else
		ops = S_ISREG(e->mode) ? &tree_file_ops : &tree_other_ops;
	struct node_key key = entry_key(dir, e, index);
	struct inode *i = inode_new(m, dir, e->name, ops, &key, e->mode & S_IFMT, err);
	if (!i)
		return -ENOMEM;
	i->node.detail = index;
	i->place = dir->place;
	i->keep_cache = true;
	if (S_ISREG(e->mode)) {
		i->content = e->content;
		i->st.st_size = (off_t)e->content.size;
	} else if (S_ISDIR(e->mode)) {
		i->dir = e->dir;
		i->tree = dir->tree;
	}
	if (dir->place == IN_IMAGE && S_ISDIR(e->mode)) {
		/* rootfs/: from here down things are as the image has them. */
		i->place = IN_TREE;
		i->tree = e->dir;
		set_from_entry(i, e);
	} else if (dir->place != IN_TREE) {
		set_uniform(i);
	} else {
		set_from_entry(i, e);
	}
	if (key.tag != KEY_BLOB) {
		i->entry = e;
		i->in = dircache_ref(&m->dirs, atomic_load(&dir->obj));
	}
	*out = i;
	return 0;
}

static int tree_lookup(struct smfs_mount *m, struct inode *dir, const char *name,
		       struct inode **out, struct err *err)
{
	const struct smfs_entry *e;
	struct smfs_dir *d;
	size_t index;
	int r = tree_dir(m, dir, &d, err);

	if (r < 0)
		return r;
	if (!find_entry(d, name, &e, &index) || (hides(dir) && names_is_hidden(m, dir->seq, index)))
		return -ENOENT;
	return new_child(m, dir, e, index, out, err);
}

int tree_child(struct smfs_mount *m, struct inode *dir, size_t index, struct inode **out,
	       struct err *err)
{
	struct smfs_dir *d;
	int r = tree_dir(m, dir, &d, err);

	if (r < 0)
		return r;
	if (index >= smfs_dir_count(d))
		return err_set(err, ESTALE, "%s has no entry %zu", dir->name, index);
	return new_child(m, dir, smfs_dir_at(d, index), index, out, err);
}

int tree_blob(struct smfs_mount *m, struct inode *parent, const char *name,
	      const struct node_key *key, struct inode **out, struct err *err)
{
	struct inode *i = inode_new(m, parent, name, &tree_file_ops, key, S_IFREG, err);

	if (!i)
		return -ENOMEM;
	i->place = (enum place)(key->b >> 16);
	i->keep_cache = true;
	i->content.size = key->a;
	i->content.kind = (uint8_t)(key->b >> 8);
	i->content.depth = (uint8_t)key->b;
	i->content.id = key->id;
	i->st.st_size = (off_t)key->a;
	set_uniform(i);
	*out = i;
	return 0;
}

static int tree_list(struct smfs_mount *m, struct inode *dir, struct listing *l, struct err *err)
{
	struct smfs_dir *d;
	int r = tree_dir(m, dir, &d, err);

	for (size_t i = 0; r == 0 && i < smfs_dir_count(d); i++) {
		const struct smfs_entry *e = smfs_dir_at(d, i);

		if (!(hides(dir) && names_is_hidden(m, dir->seq, i)))
			r = listing_add(l, e->name, e->mode & S_IFMT, err);
	}
	return r;
}

/* rm -r of a published snapshot: its files go from sight one by one, its name with rmdir. */
static int tree_unlink(struct smfs_mount *m, struct inode *dir, const char *name, struct err *err)
{
	const struct smfs_entry *e;
	struct smfs_dir *d;
	size_t index;
	int r;

	if (m->read_only || !hides(dir))
		return err_set(err, EROFS, "remove %s: only whole snapshots can be removed", name);
	r = tree_dir(m, dir, &d, err);
	if (r < 0)
		return r;
	if (!find_entry(d, name, &e, &index) || names_is_hidden(m, dir->seq, index))
		return -ENOENT;
	if (S_ISDIR(e->mode))
		return -EISDIR;
	return names_hide(m, dir->seq, index, err);
}

/*
 * Attributes of a snapshot cannot change; cp -a sets those of the directory after its last file
 * was closed, which is when the snapshot came to be.
 */
static int tree_setattr(struct smfs_mount *m, struct inode *i, struct handle *h, int64_t size,
			struct err *err)
{
	if (size < 0 && !m->read_only && hides(i) && stage_imported(m, i->seq))
		return 0;
	return err_set(err, EROFS, "change %s: what is in the store never changes", i->name);
}

static int tree_getattr(struct smfs_mount *m, struct inode *i, struct stat *st, struct err *err)
{
	int64_t blocks = atomic_load(&i->blocks);

	*st = i->st;
	st->st_ino = i->node.ino;
	if (blocks < 0) {
		struct smfs_file *f;
		uint64_t data = i->content.size, stored;

		if (i->content.kind == SMFS_ZERO)
			data = 0;
		else if (i->content.kind == SMFS_MAP) {
			/* A damaged map shows when it is read; the file is still there. */
			if (tree_file(m, i, &f, NULL) < 0 ||
			    smfs_file_usage(f, &data, &stored, NULL) < 0)
				data = i->content.size;
		}
		blocks = (int64_t)((data + 511) / 512);
		atomic_store(&i->blocks, blocks);
	}
	st->st_blocks = blocks;
	return 0;
}

static int tree_open(struct smfs_mount *m, struct inode *i, struct handle *h, struct err *err)
{
	struct smfs_file *f;

	if ((h->flags & O_ACCMODE) != O_RDONLY || (h->flags & O_TRUNC))
		return err_set(err, EROFS, "write %s: what is in the store never changes", i->name);
	return tree_file(m, i, &f, err);
}

static void report_bad(struct smfs_mount *m, struct inode *i, uint64_t off, size_t len,
		       const struct err *err)
{
	char path[INODE_PATH_MAX];
	uint64_t range = align_down(off, 64 * KIB);

	stats_add(&m->stats, COUNT_BAD_READS, 1);
	/* The kernel comes back page by page; once per frame's worth is enough to know. */
	if (atomic_exchange(&i->bad_range, range) == range)
		return;
	log_err("read %s: bytes %" PRIu64 "-%" PRIu64 ": %s; run `smfs fsck --read-data`",
		inode_path(i, path), off, off + len - 1, err->msg);
}

static ssize_t tree_read(struct smfs_mount *m, struct handle *h, void *buf, size_t len,
			 uint64_t off, struct err *err)
{
	struct inode *i = h->inode;
	struct smfs_file *f;
	int r = tree_file(m, i, &f, err);

	if (r < 0)
		return r;
	ssize_t n = readahead_pread(m, h, f, buf, len, off, err);
	if (n == -EBADMSG)
		report_bad(m, i, off, len, err);
	else if (n > 0)
		hot_note_read(m, i, (uint64_t)n);
	return n;
}

static const void *tree_lend(struct smfs_mount *m, struct handle *h, size_t *len, uint64_t off)
{
	struct smfs_file *f;
	/* A failure is the read's to report, which follows. */
	const void *p =
		tree_file(m, h->inode, &f, NULL) == 0 ? readahead_lend(m, h, f, len, off) : NULL;

	if (p)
		hot_note_read(m, h->inode, *len);
	return p;
}

static void tree_take_back(struct smfs_mount *m, struct handle *h, const void *p, uint64_t off)
{
	readahead_take_back(m, h, p, off);
}

static void tree_release(struct smfs_mount *m, struct handle *h)
{
	readahead_free(h->ahead);
}

static int tree_seek(struct smfs_mount *m, struct handle *h, uint64_t off, int whence,
		     uint64_t *out, struct err *err)
{
	struct smfs_file *f;
	int r = tree_file(m, h->inode, &f, err);

	return r < 0 ? r : smfs_file_seek(f, off, whence, out, err);
}

const struct inode_ops tree_dir_ops = {
	.lookup = tree_lookup,
	.list = tree_list,
	.unlink = tree_unlink,
	.setattr = tree_setattr,
};

const struct inode_ops tree_file_ops = {
	.getattr = tree_getattr,
	.setattr = tree_setattr,
	.open = tree_open,
	.release = tree_release,
	.read = tree_read,
	.lend = tree_lend,
	.take_back = tree_take_back,
	.seek = tree_seek,
};

const struct inode_ops tree_other_ops = {
	.setattr = tree_setattr,
};
