/*
 * xattr.c - extended attributes: the store's own (user.smfs.*) and those of an image's entries.
 *
 *   user.smfs.content  hex of the 44-byte content reference (store.h), by which another process
 *                      finds the same content in the store
 *   user.smfs.digest   hex of the object: a chunk's or map's SHA-256, or a directory's; all zero
 *                      for a file of zeros
 *   user.smfs.logical  size in bytes
 *   user.smfs.own.*    lineage.c
 *   user.smfs.stored   bytes its distinct frames take in the store
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "smfs/base/cleanup.h"
#include "smfs/base/hex.h"
#include "smfs/mount/fs.h"

#define OWN_MAX (2 * SMFS_CONTENT_LEN + 1) /* longest value, with its NUL */

static bool is_stored_file(const struct inode *i)
{
	return i->ops == &tree_file_ops;
}

static bool is_stored_dir(const struct inode *i)
{
	return i->ops == &tree_dir_ops;
}

static int get_digest(struct smfs_mount *m, struct inode *i, char *out, struct err *err)
{
	smfs_id_hex(is_stored_dir(i) ? &i->dir : &i->content.id, out);
	return 0;
}

static int get_content(struct smfs_mount *m, struct inode *i, char *out, struct err *err)
{
	uint8_t bytes[SMFS_CONTENT_LEN];

	smfs_content_encode(&i->content, bytes);
	hex_encode(bytes, sizeof(bytes), out);
	return 0;
}

static int get_logical(struct smfs_mount *m, struct inode *i, char *out, struct err *err)
{
	sprintf(out, "%" PRIu64, i->content.size);
	return 0;
}

static int get_stored(struct smfs_mount *m, struct inode *i, char *out, struct err *err)
{
	struct smfs_file *f;
	uint64_t data, stored = 0;
	int r = 0;

	if (i->content.kind != SMFS_ZERO) {
		r = tree_file(m, i, &f, err);
		if (r == 0)
			r = smfs_file_usage(f, &data, &stored, err);
	}
	sprintf(out, "%" PRIu64, stored);
	return r;
}

static const struct {
	const char *name;
	bool of_dirs;
	int (*get)(struct smfs_mount *m, struct inode *i, char out[OWN_MAX], struct err *err);
} own[] = {
	{"user.smfs.content", false, get_content},
	{"user.smfs.digest", true, get_digest},
	{"user.smfs.logical", false, get_logical},
	{"user.smfs.stored", false, get_stored},
};

#define LINEAGE "user.smfs.own."
#define OWN	(sizeof(own) / sizeof(own[0]))

static bool has_own(const struct inode *i, size_t k)
{
	return is_stored_file(i) || (is_stored_dir(i) && own[k].of_dirs);
}

/* The name is the mount's: what an image or a snapshot says under it is not shown. */
static bool is_own(const struct inode *i, const char *name)
{
	for (size_t k = 0; k < OWN; k++)
		if (has_own(i, k) && strcmp(own[k].name, name) == 0)
			return true;
	return false;
}

static int give(const void *value, size_t n, void *buf, size_t cap, size_t *len)
{
	*len = n;
	if (cap == 0)
		return 0;
	if (n > cap)
		return -ERANGE;
	memcpy(buf, value, n);
	return 0;
}

int xattr_get(struct smfs_mount *m, struct inode *i, const char *name, void *buf, size_t cap,
	      size_t *len, struct err *err)
{
	for (size_t k = 0; k < OWN; k++) {
		char text[OWN_MAX];

		if (strcmp(own[k].name, name) != 0 || !has_own(i, k))
			continue;
		int r = own[k].get(m, i, text, err);
		return r < 0 ? r : give(text, strlen(text), buf, cap, len);
	}
	if (is_stored_file(i) && strncmp(name, LINEAGE, strlen(LINEAGE)) == 0) {
		cleanup_free char *text = NULL;
		size_t n;
		int r = lineage_get(m, i, name + strlen(LINEAGE), &text, &n, err);

		return r < 0 ? r : give(text, n, buf, cap, len);
	}
	for (size_t k = 0; i->entry && k < i->entry->nxattrs; k++) {
		const struct smfs_xattr *x = &i->entry->xattrs[k];

		if (strcmp(x->name, name) == 0)
			return give(x->value, x->len, buf, cap, len);
	}
	return -ENODATA;
}

static int add_name(const char *name, void *buf, size_t cap, size_t *len)
{
	size_t n = strlen(name) + 1;

	if (cap) {
		if (n > cap - *len)
			return -ERANGE;
		memcpy((char *)buf + *len, name, n);
	}
	*len += n;
	return 0;
}

int xattr_list(struct inode *i, void *buf, size_t cap, size_t *len, struct err *err)
{
	int r = 0;

	*len = 0;
	for (size_t k = 0; r == 0 && i->entry && k < i->entry->nxattrs; k++)
		if (!is_own(i, i->entry->xattrs[k].name))
			r = add_name(i->entry->xattrs[k].name, buf, cap, len);
	for (size_t k = 0; r == 0 && k < OWN; k++)
		if (has_own(i, k))
			r = add_name(own[k].name, buf, cap, len);
	return r;
}
