/*
 * takeover_wake.c - from what an earlier server wrote down, inodes and open files again.
 *
 * At the takeover each inode is made asleep: number, key, parent and counts, no access to the
 * store, so that it takes microseconds however much the kernel holds. It is filled in when first
 * used, from its key, its parent, and
 *
 *     images/ layers/ snapshots/ .smfs/ and below .smfs/    nothing else
 *     KEY_PREFIX   text: the path
 *     KEY_NAME     text: how the name's record was, as the name itself may be gone
 *     KEY_DIR, KEY_ENTRY, KEY_LINK   detail: index in the parent's directory object
 *     KEY_BLOB     the same, for the name; the content is in the key
 *     KEY_STAGE    gone with the server: see takeover_stage.c
 *
 * It is made by the same functions as ever, and must come out with the key it had.
 */
#include <stdlib.h>
#include <string.h>

#include "smfs/base/bytes.h"
#include "smfs/base/log.h"
#include "smfs/base/num.h"
#include "smfs/mount/fs.h"
#include "smfs/mount/refpath.h"
#include "smfs/mount/takeover_stage.h"

/* ---- what is written down ------------------------------------------------------------------ */

static size_t keep(struct writer *w, uint8_t *out)
{
	size_t len = w->failed || w->len > TAKEOVER_TEXT_MAX ? 0 : w->len;

	memcpy(out, w->p, len);
	writer_free(w);
	return len;
}

size_t takeover_describe(const struct node *n, uint8_t *out)
{
	const struct inode *i = container_of(n, struct inode, node);
	const struct inode *up = inode_parent(i);
	char name[SMFS_REF_MAX + 1];
	struct writer w = WRITER_INIT;

	if (n->key.tag == KEY_PREFIX) {
		put_bytes(&w, i->prefix, strlen(i->prefix));
		return keep(&w, out);
	}
	if (n->key.tag != KEY_NAME || !ref_join(up && up->prefix ? up->prefix : "", i->name, name))
		return 0;
	put_u64(&w, (uint64_t)(i->st.st_mtim.tv_sec * 1000000000 + i->st.st_mtim.tv_nsec));
	if (i->kind != SMFS_SNAPSHOT) {
		put_bytes(&w, i->dir.b, sizeof(i->dir.b));
		put_u32(&w, i->st.st_mode);
		put_u32(&w, i->st.st_uid);
		put_u32(&w, i->st.st_gid);
	}
	put_bytes(&w, name, strlen(name));
	return keep(&w, out);
}

/* ---- made again ---------------------------------------------------------------------------- */

static const struct takeover_node *record_of(struct smfs_mount *m, const struct inode *i)
{
	return takeover_node(m->takeover, i->node.slot);
}

static int lost(const struct inode *i, struct err *err)
{
	return err_set(err, ESTALE, "inode %llu cannot be found again",
		       (unsigned long long)i->node.ino);
}

static int again_prefix(struct smfs_mount *m, struct inode *i, struct inode **out, struct err *err)
{
	uint8_t text[TAKEOVER_TEXT_MAX + 1];
	size_t len = takeover_text(m->takeover, record_of(m, i), text);
	char *path = (char *)text;

	if (len == 0 || len > SMFS_REF_MAX)
		return lost(i, err);
	path[len] = '\0';
	const char *slash = strrchr(path, '/');
	return names_prefix_new(m, inode_parent(i), slash ? slash + 1 : path, path, out, err);
}

static int again_name(struct smfs_mount *m, struct inode *i, struct inode **out, struct err *err)
{
	uint8_t text[TAKEOVER_TEXT_MAX];
	struct reader r = reader_of(text, takeover_text(m->takeover, record_of(m, i), text));
	struct smfs_name n = {.kind = (enum smfs_kind)i->node.key.b,
			      .seq = i->node.key.a,
			      .root = i->node.key.id};

	if (i->node.key.b < SMFS_SNAPSHOT || i->node.key.b > SMFS_LAYER)
		return lost(i, err);
	n.mtime = n.created = (int64_t)get_u64(&r);
	if (n.kind != SMFS_SNAPSHOT) {
		get_bytes(&r, n.root.b, sizeof(n.root.b));
		n.mode = get_u32(&r);
		n.uid = get_u32(&r);
		n.gid = get_u32(&r);
	}
	if (!reader_ok(&r) || r.left == 0 || r.left > SMFS_REF_MAX)
		return lost(i, err);
	get_bytes(&r, n.name, r.left);
	return names_inode(m, inode_parent(i), &n, out, err);
}

/* One of the few a directory always has. */
static int again_fixed(struct smfs_mount *m, struct inode *i, struct inode **out, struct err *err)
{
	struct inode *dir = inode_parent(i);
	struct listing l = {0};
	int r = dir->ops->list ? dir->ops->list(m, dir, &l, err) : lost(i, err);
	bool found = false;

	for (size_t k = 0; r == 0 && !found && k < l.count; k++) {
		r = dir->ops->lookup(m, dir, listing_name(&l, k), out, err);
		found = r == 0 &&
			memcmp(&(*out)->node.key, &i->node.key, sizeof(struct node_key)) == 0;
		if (r == 0 && !found)
			inode_destroy(&(*out)->node);
	}
	listing_free(&l);
	return r < 0 || found ? r : lost(i, err);
}

static int again(struct smfs_mount *m, struct inode *i, struct inode **out, struct err *err)
{
	int r;

	switch (i->node.key.tag) {
	case KEY_FIXED:
		return again_fixed(m, i, out, err);
	case KEY_PREFIX:
		return again_prefix(m, i, out, err);
	case KEY_NAME:
		return again_name(m, i, out, err);
	case KEY_DIR:
	case KEY_ENTRY:
	case KEY_LINK:
		return tree_child(m, inode_parent(i), i->node.detail, out, err);
	case KEY_BLOB:
		r = tree_child(m, inode_parent(i), i->node.detail, out, NULL);
		return r == 0 ? 0 : tree_blob(m, inode_parent(i), "?", &i->node.key, out, err);
	case KEY_STAGE:
		return takeover_stage_again(m, i, out, err);
	default:
		return lost(i, err);
	}
}

/* With wake_lock held, the parent awake. */
static int wake(struct smfs_mount *m, struct inode *i, struct err *err)
{
	const size_t from = offsetof(struct inode, ops);
	struct inode *fresh;
	int r = again(m, i, &fresh, err);

	if (r < 0)
		return r;
	if (memcmp(&fresh->node.key, &i->node.key, sizeof(struct node_key)) != 0) {
		inode_destroy(&fresh->node);
		return lost(i, err);
	}
	memcpy((char *)i + from, (char *)fresh + from, sizeof(*i) - from);
	free(fresh);
	atomic_store(&i->asleep, false);
	return 0;
}

int inode_wake(struct smfs_mount *m, struct inode *i, struct err *err)
{
	int r = 0;

	pthread_mutex_lock(&m->wake_lock);
	/* From the top down; an awake inode has awake parents. */
	while (r == 0 && atomic_load(&i->asleep)) {
		struct inode *top = i;

		while (atomic_load(&inode_parent(top)->asleep))
			top = inode_parent(top);
		r = wake(m, top, err);
	}
	pthread_mutex_unlock(&m->wake_lock);
	return r;
}

/* ---- at the takeover ----------------------------------------------------------------------- */

static struct node *sleeper(void *arg, const struct node_key *key)
{
	struct inode *i = calloc(1, sizeof(*i));

	if (!i)
		return NULL;
	i->node.key = *key;
	i->mount = arg;
	i->asleep = true;
	return &i->node;
}

static int restore_handles(struct smfs_mount *m, struct err *err)
{
	const struct takeover_handle *e;
	uint64_t fh;

	for (uint32_t slot = 0; (e = takeover_next_handle(m->takeover, &slot, &fh));) {
		struct node *n = node_find(&m->nodes, e->ino);

		if (!n) {
			/* Of an inode there was no room to write down. */
			log_warn("an open file of inode %llu is lost", (unsigned long long)e->ino);
			takeover_drop_handle(m->takeover, fh);
			continue;
		}
		if (fs_restore_handle(m, container_of(n, struct inode, node), (int)e->flags,
				      atomic_load(&e->mode), fh) < 0)
			return err_set(err, ENOMEM, "take over the open files: out of memory");
	}
	return 0;
}

/*
 * Names take leases (lease.h) as they wake: all of them now, while the keeper still holds those of
 * the server before.
 */
static int lease_names(struct smfs_mount *m, struct err *err)
{
	const struct takeover_node *e;
	int r = 0;

	for (uint32_t slot = 0; r == 0 && (e = takeover_next_node(m->takeover, &slot));) {
		struct node *n = e->key.tag == KEY_NAME ? node_find(&m->nodes, e->ino) : NULL;

		if (n)
			r = inode_wake(m, container_of(n, struct inode, node), err);
	}
	return r;
}

int takeover_restore(struct smfs_mount *m, struct err *err)
{
	int r = node_restore(&m->nodes, sleeper, m, err);

	if (r == 0)
		r = restore_handles(m, err);
	if (r < 0)
		return r;
	node_settle(&m->nodes);
	r = lease_names(m, err);
	if (r < 0)
		return r;
	smfs_store_unpin(m->store);
	for (size_t i = 0; i < TAKEOVER_HIDDEN; i++)
		m->nhidden += atomic_load(&m->area->hidden[i].seq) != 0;
	takeover_stages_lost(m);
	return 0;
}
