#include "smfs/mount/takeover_stage.h"

#include <string.h>

#include "smfs/base/log.h"

static const struct inode_ops lost_dir_ops, lost_file_ops;

static bool was_published(struct smfs_mount *m, const struct takeover_stage *st, uint64_t *seq)
{
	struct smfs_name n;

	if (!atomic_load(&st->publishing) ||
	    smfs_name_get(m->store, SMFS_SNAPSHOT, st->name, &n, NULL) < 0 ||
	    memcmp(&n.root, &st->root, sizeof(n.root)) != 0)
		return false;
	*seq = n.seq;
	return true;
}

/* cp -a is about to set attributes. From the end: this server's own imports begin at the front. */
static void remember(struct smfs_mount *m, uint64_t seq)
{
	atomic_store(&m->area->imported[TAKEOVER_IMPORTED - 1 - m->ntold_late], seq);
}

void takeover_stages_lost(struct smfs_mount *m)
{
	for (size_t i = 0; i < TAKEOVER_STAGES; i++) {
		struct takeover_stage *st = &m->area->stages[i];
		uint64_t serial = atomic_load(&st->serial), seq;

		if (!serial)
			continue;
		st->name[sizeof(st->name) - 1] = '\0';
		if (was_published(m, st, &seq)) {
			remember(m, seq);
			m->told_late[m->ntold_late++] = serial;
		} else {
			log_err("import snapshot %s: the server died while it was being copied in: "
				"the copy is lost, begin it again",
				st->name);
		}
		atomic_store(&st->serial, 0);
	}
}

/* The stage's number is its directory's, of a file that of the directory above. */
static bool told_late(const struct inode *i)
{
	const struct inode *dir = S_ISDIR(i->st.st_mode) ? i : inode_parent(i);

	for (size_t k = 0; k < i->mount->ntold_late; k++)
		if (i->mount->told_late[k] == dir->node.key.a)
			return true;
	return false;
}

int takeover_stage_again(struct smfs_mount *m, const struct inode *i, struct inode **out,
			 struct err *err)
{
	bool dir = S_ISDIR((mode_t)i->node.detail);
	mode_t mode = dir ? S_IFDIR | 0700 : S_IFREG | 0600;

	*out = inode_new(m, inode_parent(i), "(lost copy)", dir ? &lost_dir_ops : &lost_file_ops,
			 &i->node.key, mode, err);
	if (!*out)
		return -ENOMEM;
	(*out)->node.detail = i->node.detail;
	(*out)->volatile_attr = (*out)->volatile_name = true;
	return 0;
}

static int gone(struct err *err)
{
	return err_set(err, EIO, "the copy was lost when the server died; begin it again");
}

static int lost_lookup(struct smfs_mount *m, struct inode *dir, const char *name,
		       struct inode **out, struct err *err)
{
	return -ENOENT;
}

static int lost_list(struct smfs_mount *m, struct inode *dir, struct listing *l, struct err *err)
{
	return 0;
}

static int lost_create(struct smfs_mount *m, struct inode *dir, const char *name,
		       struct inode **out, struct err *err)
{
	return gone(err);
}

static int lost_unlink(struct smfs_mount *m, struct inode *dir, const char *name, struct err *err)
{
	return -ENOENT;
}

static int lost_rename(struct smfs_mount *m, struct inode *from_dir, const char *from,
		       struct inode *to_dir, const char *to, unsigned flags,
		       void (*done)(void *arg, int r), void *arg, struct err *err)
{
	return told_late(from_dir) ? 0 : gone(err);
}

/* cp -a sets attributes last; what has become a snapshot accepts them, as ever. */
static int lost_setattr(struct smfs_mount *m, struct inode *i, struct handle *h, int64_t size,
			struct err *err)
{
	return size < 0 && told_late(i) ? 0 : gone(err);
}

static int lost_open(struct smfs_mount *m, struct inode *i, struct handle *h, struct err *err)
{
	return gone(err);
}

static ssize_t lost_read(struct smfs_mount *m, struct handle *h, void *buf, size_t len,
			 uint64_t off, struct err *err)
{
	return gone(err);
}

static ssize_t lost_write(struct smfs_mount *m, struct handle *h, const void *buf, size_t len,
			  uint64_t off, struct err *err)
{
	return gone(err);
}

static int lost_fallocate(struct smfs_mount *m, struct handle *h, int mode, uint64_t off,
			  uint64_t len, struct err *err)
{
	return gone(err);
}

static int lost_seek(struct smfs_mount *m, struct handle *h, uint64_t off, int whence,
		     uint64_t *out, struct err *err)
{
	return gone(err);
}

static void lost_flush(struct smfs_mount *m, struct handle *h, void (*done)(void *arg, int r),
		       void *arg)
{
	done(arg, told_late(h->inode) || (h->flags & O_ACCMODE) == O_RDONLY ? 0 : -EIO);
}

static const struct inode_ops lost_dir_ops = {
	.lookup = lost_lookup,
	.list = lost_list,
	.create = lost_create,
	.unlink = lost_unlink,
	.rename = lost_rename,
	.setattr = lost_setattr,
};

static const struct inode_ops lost_file_ops = {
	.setattr = lost_setattr,
	.open = lost_open,
	.read = lost_read,
	.write = lost_write,
	.fallocate = lost_fallocate,
	.seek = lost_seek,
	.flush = lost_flush,
};
