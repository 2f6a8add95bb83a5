/*
 * store_mounted.h - a lane of the model (store_model.h) that is changed and read through a mount.
 *
 * Snapshots are copied in, renamed and removed by nothing but system calls on the mount, and
 * each is read back whole. Other lanes, whose names come and go while they are read, have the tree
 * of model_stage(): who could open the directory must find all of it.
 *
 * Reads are read(2), never mappings: a process that faults on a mount it serves itself may hold
 * what its serving threads wait for.
 */
#ifndef TESTS_UNIT_STORE_MOUNTED_H
#define TESTS_UNIT_STORE_MOUNTED_H

#include "store_model.h"

/* All of a file. */
static inline int mounted_read(int dir, const char *path, uint8_t *buf, size_t cap, size_t *len,
			       struct err *err)
{
	cleanup_fd int fd = openat(dir, path, O_RDONLY | O_CLOEXEC);
	ssize_t n = 1;

	if (fd < 0)
		return err_errno(err, "open %s", path);
	for (*len = 0; n > 0 && *len < cap; *len += (size_t)n) {
		n = read(fd, buf + *len, MIN(cap - *len, (size_t)100000));
		if (n < 0)
			return err_errno(err, "read %s at %zu", path, *len);
	}
	return 0;
}

static inline int mounted_file(int dir, const char *path, const void *want, size_t want_len,
			       struct err *err)
{
	cleanup_free uint8_t *got = malloc(want_len + 1);
	size_t len = 0;
	int r = mounted_read(dir, path, got, want_len + 1, &len, err);

	if (r == 0 && (len != want_len || memcmp(got, want, len) != 0))
		r = err_set(err, EBADMSG, "%s: not the %zu bytes it was given", path, want_len);
	return r;
}

/* The tree of model_stage(), whichever content it has. 1: whole; 0: no such name. */
static inline int mounted_tree(const char *mnt, const char *name, uint8_t *buf, struct err *err)
{
	char path[128], target[16] = "";
	uint8_t note[32] = "";
	size_t len;

	snprintf(path, sizeof(path), "%s/snapshots/%s", mnt, name);
	cleanup_fd int dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0)
		return errno == ENOENT ? 0 : err_errno(err, "open %s", path);
	int r = mounted_read(dir, "sub/note", note, sizeof(note) - 1, &len, err);
	if (r < 0)
		return r;
	if (readlinkat(dir, "sub/link", target, sizeof(target) - 1) < 0)
		return err_errno(err, "read link %s/sub/link", name);
	if (strcmp(target, "../data") != 0)
		return err_set(err, EBADMSG, "%s: another link", name);
	len = model_content(strtoull((char *)note, NULL, 16), buf);
	r = mounted_file(dir, "data", buf, len, err);
	return r < 0 ? r : 1;
}

/* ---- the lane of the mount: { meta, ram, vcpu } ---- */

static inline int mounted_note(uint64_t key, size_t ram, char out[80])
{
	return snprintf(out, 80, "{\"key\": \"%" PRIx64 "\", \"ram_bytes\": %zu}", key, ram);
}

static inline int mounted_write(int dir, const char *path, const void *buf, size_t len,
				struct err *err)
{
	int fd = openat(dir, path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

	if (fd < 0)
		return err_errno(err, "create %s", path);
	for (size_t at = 0; at < len;) {
		ssize_t n = write(fd, (const uint8_t *)buf + at, len - at);

		if (n <= 0) {
			err_errno(err, "write %s", path);
			close(fd);
			return -err->code;
		}
		at += (size_t)n;
	}
	/* The last one of a snapshot publishes it, and tells how that went. */
	return close(fd) < 0 ? err_errno(err, "close %s", path) : 0;
}

static inline int mounted_put(const char *path, uint64_t key, uint8_t *buf, struct err *err)
{
	size_t len = model_content(key, buf);
	char note[80];
	int n = mounted_note(key, len, note), r;

	if (mkdir(path, 0700) < 0)
		return err_errno(err, "mkdir %s", path);
	cleanup_fd int dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0)
		return err_errno(err, "open %s", path);
	if ((r = mounted_write(dir, "vcpu", "registers", 9, err)) < 0 ||
	    (r = mounted_write(dir, "ram", buf, len, err)) < 0)
		return r;
	return mounted_write(dir, "meta", note, (size_t)n, err);
}

static inline int mounted_remove(const char *path, struct err *err)
{
	static const char *const files[] = {"ram", "meta", "vcpu"};
	cleanup_fd int dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (dir < 0)
		return err_errno(err, "open %s", path);
	for (size_t i = 0; i < ARRAY_SIZE(files); i++)
		if (unlinkat(dir, files[i], 0) < 0)
			return err_errno(err, "remove %s/%s", path, files[i]);
	return rmdir(path) < 0 ? err_errno(err, "rmdir %s", path) : 0;
}

/* model_run() with system calls; operations of the store alone have none and are passed over. */
static inline int mounted_run(const char *mnt, const struct model *m, const struct model_op *op,
			      uint8_t *buf, struct err *err)
{
	char name[32], path[128], to[128];
	int r = 0;

	model_name(m, op->slot, name);
	snprintf(path, sizeof(path), "%s/snapshots/%s", mnt, name);
	model_name(m, op->to, name);
	snprintf(to, sizeof(to), "%s/snapshots/%s", mnt, name);
	if (op->kind == MODEL_RENAME)
		return rename(path, to) < 0 ? err_errno(err, "rename %s to %s", path, to) : 0;
	if (op->kind == MODEL_REMOVE || op->kind == MODEL_REPLACE)
		r = mounted_remove(path, err);
	if (r == 0 && (op->kind == MODEL_PUT || op->kind == MODEL_REPLACE))
		r = mounted_put(path, op->key, buf, err);
	return r;
}

static inline int mounted_check_slot(const char *mnt, const struct model *m, unsigned slot,
				     uint8_t *buf, struct err *err)
{
	char name[32], path[128], note[80];

	model_name(m, slot, name);
	snprintf(path, sizeof(path), "%s/snapshots/%s", mnt, name);
	cleanup_fd int dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0 && errno == ENOENT && !m->slot[slot])
		return 0;
	if (dir < 0)
		return err_errno(err, "open %s, after %" PRIu64 " operations", path, m->done);
	if (!m->slot[slot])
		return err_set(err, EBADMSG, "%s is there, after %" PRIu64 " operations", path,
			       m->done);
	size_t len = model_content(m->slot[slot], buf);
	int n = mounted_note(m->slot[slot], len, note), r;
	if ((r = mounted_file(dir, "meta", note, (size_t)n, err)) < 0 ||
	    (r = mounted_file(dir, "vcpu", "registers", 9, err)) < 0)
		return err_wrap(err, r, "%s", name);
	r = mounted_file(dir, "ram", buf, len, err);
	return r < 0 ? err_wrap(err, r, "%s", name) : 0;
}

/* The same of the store, without a mount. */
static inline int mounted_check_store(struct smfs_store *s, const struct model *m, uint8_t *buf,
				      struct err *err)
{
	for (unsigned slot = 0; slot < MODEL_SLOTS; slot++) {
		const struct smfs_entry *e;
		struct smfs_name n;
		struct smfs_dir *d;
		char name[32];

		model_name(m, slot, name);
		int r = smfs_name_get(s, SMFS_SNAPSHOT, name, &n, err);
		if (r == -ENOENT && !m->slot[slot])
			continue;
		if (r == 0 && !m->slot[slot])
			r = err_set(err, EBADMSG, "%s is there", name);
		if (r == 0)
			r = smfs_dir_open(s, &n.root, &d, err);
		if (r < 0)
			return err_wrap(err, -EBADMSG, "%s after %" PRIu64 " operations", name,
					m->done);
		e = smfs_dir_find(d, "ram");
		r = e ? model_file(s, name, &e->content, buf, model_content(m->slot[slot], buf),
				   err)
		      : err_set(err, EBADMSG, "%s: no ram", name);
		smfs_dir_close(d);
		if (r < 0)
			return r;
	}
	return 0;
}

#endif
