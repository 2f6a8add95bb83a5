#include "smfs/mount/fs.h"

#include <stdlib.h>
#include <string.h>

#include "smfs/base/num.h"

struct inode *inode_new(struct smfs_mount *m, struct inode *parent, const char *name,
			const struct inode_ops *ops, const struct node_key *key, mode_t mode,
			struct err *err)
{
	struct inode *i = calloc(1, sizeof(*i));
	char *copy = strdup(name);
	int64_t created = smfs_store_created(m->store);

	if (!i || !copy) {
		free(i);
		free(copy);
		err_set(err, ENOMEM, "look up %s: out of memory", name);
		return NULL;
	}
	i->node.key = *key;
	i->node.parent = parent ? &parent->node : NULL;
	i->ops = ops;
	i->mount = m;
	i->name = copy;
	i->blocks = -1;
	i->bad_range = UINT64_MAX;
	i->st.st_mode = mode;
	/* Of a directory, 1 is the customary "not counted"; find(1) knows it. */
	i->st.st_nlink = 1;
	i->st.st_blksize = 4096;
	i->st.st_mtim.tv_sec = created / 1000000000;
	i->st.st_mtim.tv_nsec = created % 1000000000;
	return i;
}

void inode_destroy(struct node *n)
{
	struct inode *i = container_of(n, struct inode, node);

	tree_destroy(i);
	stage_destroy(i);
	smfs_lease_drop(i->mount->store, i->lease);
	free(i->prefix);
	free(i->name);
	free(i);
}

const char *inode_path(const struct inode *i, char buf[INODE_PATH_MAX])
{
	size_t at = INODE_PATH_MAX - 1;

	buf[at] = '\0';
	for (; i && i->node.parent && !atomic_load(&i->asleep); i = inode_parent(i)) {
		size_t n = strlen(i->name);

		if (n + 1 > at) {
			memcpy(buf + at, "...", MIN((size_t)3, INODE_PATH_MAX - 1 - at));
			break;
		}
		if (buf[at])
			buf[--at] = '/';
		at -= n;
		memcpy(buf + at, i->name, n);
	}
	return buf + at;
}
