/*
 * control.c - .smfs/: what people, monitoring and the runner ask of a mount.
 *
 *   stats    counters, Prometheus text          version  of the server
 *   health   "ok", or what is wrong             store    absolute path of the store's directory
 *   pid      the server's process                   keeper   its keeper's, or `none`
 *   pending  snapshots that are being written or have failed, a line each: name, state, seconds
 *            since the epoch when it began, by whom, why; with tabs between
 */
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "smfs/base/log.h"
#include "smfs/base/num.h"
#include "smfs/mount/fs.h"

static const struct inode_ops dir_ops, file_ops;

static char *health_text(struct smfs_mount *m, size_t *len)
{
	uint64_t bad = stats_get(&m->stats, COUNT_BAD_READS);
	char *text = NULL;
	int n;

	if (bad)
		n = asprintf(&text,
			     "degraded: %" PRIu64
			     " reads met damaged data; the log names the files, "
			     "`smfs fsck --read-data` names all that is hit\n",
			     bad);
	else
		n = asprintf(&text, "ok\n");
	*len = n < 0 ? 0 : (size_t)n;
	return n < 0 ? NULL : text;
}

static char *line(const char *s, size_t *len)
{
	char *text = NULL;
	int n = asprintf(&text, "%s\n", s);

	*len = n < 0 ? 0 : (size_t)n;
	return n < 0 ? NULL : text;
}

static char *version_text(struct smfs_mount *m, size_t *len)
{
	return line("smfs " SMFS_VERSION, len);
}

static char *store_text(struct smfs_mount *m, size_t *len)
{
	return line(m->store_dir, len);
}

static char *pid_text(struct smfs_mount *m, size_t *len)
{
	char pid[16];

	snprintf(pid, sizeof(pid), "%d", (int)getpid());
	return line(pid, len);
}

static char *keeper_text(struct smfs_mount *m, size_t *len)
{
	int32_t keeper = atomic_load(&m->area->keeper);
	char pid[16];

	snprintf(pid, sizeof(pid), "%d", keeper);
	return line(keeper > 0 && kill(keeper, 0) == 0 ? pid : "none", len);
}

static char *pending_text(struct smfs_mount *m, size_t *len)
{
	struct smfs_pending *v;
	struct err err = ERR_INIT;
	char *text = NULL;
	size_t n;
	FILE *f = open_memstream(&text, len);

	if (!f)
		return NULL;
	if (smfs_pending_list(m->store, &v, &n, &err) < 0) {
		log_warn("read .smfs/pending: %s", err.msg);
		fclose(f);
		free(text);
		return NULL;
	}
	for (size_t i = 0; i < n; i++)
		fprintf(f, "%s\t%s\t%lld\t%s\t%s\n", v[i].name,
			v[i].state == SMFS_PENDING_WRITING ? "writing" : "failed",
			(long long)(v[i].began / 1000000000), v[i].by, v[i].reason);
	free(v);
	if (fclose(f) != 0) {
		free(text);
		return NULL;
	}
	return text;
}

static const struct {
	const char *name;
	char *(*text)(struct smfs_mount *m, size_t *len);
} files[] = {
	/* In this order for ever: a later program meets the numbers of an earlier one. */
	{"health", health_text},   {"pid", pid_text},	      {"stats", stats_text},
	{"store", store_text},	   {"version", version_text}, {"keeper", keeper_text},
	{"pending", pending_text},
};

int control_dir_new(struct smfs_mount *m, struct inode *parent, struct inode **out, struct err *err)
{
	struct node_key key = {.tag = KEY_FIXED, .a = 100};

	*out = inode_new(m, parent, ".smfs", &dir_ops, &key, S_IFDIR | 0555, err);
	return *out ? 0 : -ENOMEM;
}

static int control_lookup(struct smfs_mount *m, struct inode *dir, const char *name,
			  struct inode **out, struct err *err)
{
	for (unsigned i = 0; i < ARRAY_SIZE(files); i++) {
		struct node_key key = {.tag = KEY_FIXED, .a = 101 + i};

		if (strcmp(files[i].name, name) != 0)
			continue;
		*out = inode_new(m, dir, name, &file_ops, &key, S_IFREG | 0444, err);
		if (!*out)
			return -ENOMEM;
		(*out)->control = i;
		(*out)->volatile_attr = true;
		return 0;
	}
	return -ENOENT;
}

static int control_list(struct smfs_mount *m, struct inode *dir, struct listing *l, struct err *err)
{
	int r = 0;

	for (unsigned i = 0; r == 0 && i < ARRAY_SIZE(files); i++)
		r = listing_add(l, files[i].name, S_IFREG, err);
	return r;
}

static int control_getattr(struct smfs_mount *m, struct inode *i, struct stat *st, struct err *err)
{
	size_t len;
	char *text = files[i->control].text(m, &len);

	if (!text)
		return err_set(err, ENOMEM, "stat .smfs/%s: out of memory", i->name);
	free(text);
	*st = i->st;
	st->st_ino = i->node.ino;
	st->st_size = (off_t)len;
	clock_gettime(CLOCK_REALTIME, &st->st_mtim);
	return 0;
}

/* The text as of the open: a reader in several steps sees one state. */
static int control_open(struct smfs_mount *m, struct inode *i, struct handle *h, struct err *err)
{
	if ((h->flags & O_ACCMODE) != O_RDONLY)
		return err_set(err, EROFS, "write .smfs/%s: read-only", i->name);
	h->text = files[i->control].text(m, &h->text_len);
	h->direct = true;
	return h->text ? 0 : err_set(err, ENOMEM, "open .smfs/%s: out of memory", i->name);
}

static ssize_t control_read(struct smfs_mount *m, struct handle *h, void *buf, size_t len,
			    uint64_t off, struct err *err)
{
	/* Opened with an earlier server: as of now, then. */
	pthread_mutex_lock(&h->lock);
	if (!h->text)
		h->text = files[h->inode->control].text(m, &h->text_len);
	pthread_mutex_unlock(&h->lock);
	if (!h->text)
		return err_set(err, ENOMEM, "read .smfs/%s: out of memory", h->inode->name);
	if (off >= h->text_len)
		return 0;
	size_t n = MIN(len, h->text_len - (size_t)off);
	memcpy(buf, h->text + off, n);
	return (ssize_t)n;
}

static void control_release(struct smfs_mount *m, struct handle *h)
{
	free(h->text);
}

static const struct inode_ops dir_ops = {
	.lookup = control_lookup,
	.list = control_list,
};

static const struct inode_ops file_ops = {
	.getattr = control_getattr,
	.open = control_open,
	.read = control_read,
	.release = control_release,
};
