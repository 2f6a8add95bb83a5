/*
 * mount.c - a mount's life: session, serving threads, start and stop.
 */
#include "smfs/mount/mount.h"

#include <dirent.h>
#include <fuse3/fuse_lowlevel.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/mount.h>

#include "smfs/base/cleanup.h"
#include "smfs/base/log.h"
#include "smfs/base/num.h"
#include "smfs/mount/fs.h"
#include "smfs/mount/hot.h"
#include "smfs/mount/readahead.h"

/* Address space; pages are there where files are open. */
#define SLOTS_BYTES (TAKEOVER_HANDLES * sizeof(struct handle *))

/* ---- serving ------------------------------------------------------------------------------- */

/* Outlives the threads of the channel, and tells. */
static void *serve(void *arg)
{
	struct smfs_mount *m = arg;
	uint64_t one = 1;

	channel_wait(m->channel);
	if (channel_draining(m->channel))
		return NULL;
	pthread_mutex_lock(&m->state_lock);
	m->ended = true;
	pthread_mutex_unlock(&m->state_lock);
	if (write(m->ended_fd, &one, sizeof(one)) < 0)
		log_err("serve %s: eventfd: %s", m->dir, strerror(errno));
	return NULL;
}

/* With every signal blocked: they belong to the command. */
static int start_server(struct smfs_mount *m, struct err *err)
{
	sigset_t all, old;
	int r = channel_serve(m->channel, err);

	if (r < 0)
		return r;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	r = pthread_create(&m->server, NULL, serve, m);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (r)
		return err_set(err, r, "mount %s: start a thread: %s", m->dir, strerror(r));
	struct err why = ERR_INIT;
	/* Without it all works, and garbage is held longer. */
	if (letgo_start(m, &why) < 0)
		log_warn("%s", why.msg);
	return 0;
}

/* ---- session ------------------------------------------------------------------------------- */

static int new_session(struct smfs_mount *m, struct err *err)
{
	char opts[32];
	char *argv[] = {"smfs", "-o", opts, NULL};
	struct fuse_args args = FUSE_ARGS_INIT(3, argv);

	/* The rest is between the kernel and channel_mount(); of this libfuse must know. */
	snprintf(opts, sizeof(opts), "max_read=%u", FS_IO_MAX);
	m->se = fuse_session_new(&args, &fs_ops, sizeof(fs_ops), m);
	fuse_opt_free_args(&args);
	if (!m->se)
		return err_set(err, ENOMEM, "mount %s: cannot set up a FUSE session", m->dir);
	return channel_attach(m->channel, m->se, err);
}

static int check_empty(const char *dir, struct err *err)
{
	cleanup_dir DIR *d = opendir(dir);
	struct dirent *e;

	if (!d)
		return err_errno(err, "mount %s", dir);
	while ((e = readdir(d)))
		if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
			return err_set(err, ENOTEMPTY, "mount %s: the directory is not empty", dir);
	return 0;
}

static int dead_mount(const char *dir, struct err *err)
{
	return err_set(err, ENOTCONN,
		       "mount %s: a mount whose server has died is in the way; "
		       "run `smfs unmount %s` first",
		       dir, dir);
}

static bool is_gone(int e)
{
	return e == ENOTCONN || e == ECONNABORTED;
}

/* The root's attributes may be cached; opening it asks the server. */
static int taken(const char *dir, struct err *err)
{
	cleanup_dir DIR *d = opendir(dir);

	if (!d && is_gone(errno))
		return dead_mount(dir, err);
	return err_set(err, EBUSY,
		       "mount %s: something is mounted there; run `smfs unmount %s` first", dir,
		       dir);
}

/* The mount point, absolute; refused if mounting there would hide something. */
static int check_dir(const char *dir, char **abs, struct err *err)
{
	struct stat st, up;
	cleanup_free char *path = realpath(dir, NULL), *parent = NULL;

	if (!path || stat(path, &st) < 0)
		return is_gone(errno) ? dead_mount(dir, err) : err_errno(err, "mount %s", dir);
	if (!S_ISDIR(st.st_mode))
		return err_set(err, ENOTDIR, "mount %s: not a directory", dir);
	if (asprintf(&parent, "%s/..", path) < 0) {
		parent = NULL;
		return err_set(err, ENOMEM, "mount %s: out of memory", dir);
	}
	if (stat(parent, &up) < 0)
		return err_errno(err, "mount %s", dir);
	if (st.st_dev != up.st_dev || st.st_ino == up.st_ino)
		return taken(path, err);
	int r = check_empty(path, err);
	if (r == 0)
		*abs = steal_ptr(&path);
	return r;
}

/* ---- start and stop ------------------------------------------------------------------------ */

static void mount_free(struct smfs_mount *m)
{
	letgo_stop(m);
	/* Whoever still waits for a publication is answered, then requests are over. */
	stage_area_drain(m->stages);
	hot_stop(m->hot);
	fs_close_all(m);
	if (m->se)
		fuse_session_destroy(m->se);
	channel_free(m->channel);
	node_table_free(&m->nodes);
	stage_area_free(m->stages);
	readahead_pool_free(m->readahead);
	hot_free(m->hot);
	dircache_free(&m->dirs);
	if (m->ended_fd >= 0)
		close(m->ended_fd);
	pthread_key_delete(m->buffers);
	pthread_mutex_destroy(&m->names_lock);
	pthread_mutex_destroy(&m->handles_lock);
	pthread_mutex_destroy(&m->state_lock);
	if (m->by_slot)
		munmap(m->by_slot, SLOTS_BYTES);
	takeover_unmap(m->takeover);
	pthread_mutex_destroy(&m->wake_lock);
	free(m->dir);
	free(m->store_dir);
	free(m);
}

/* What is the same for every kind of mount; `line` NULL: nobody goes on after this process. */
static int set_up(struct smfs_mount *m, const struct mount_line *line, struct err *err)
{
	int r = takeover_map(line ? line->table : -1, &m->takeover, err);

	if (r < 0)
		return r;
	m->area = takeover_area(m->takeover);
	m->kept = line;
	if (line) {
		m->nodes.takeover = m->takeover;
		m->nodes.describe = takeover_describe;
	}
	m->by_slot = mmap(NULL, SLOTS_BYTES, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (m->by_slot == MAP_FAILED) {
		m->by_slot = NULL;
		return err_errno(err, "mount: map the table of open files");
	}
	m->ended_fd = eventfd(0, EFD_CLOEXEC);
	if (m->ended_fd < 0)
		return err_errno(err, "mount: eventfd");
	m->store_dir = realpath(smfs_store_dir(m->store), NULL);
	if (!m->store_dir)
		return err_errno(err, "resolve %s", smfs_store_dir(m->store));
	r = channel_new(line ? line->dev : NULL, line ? &m->area->channel : NULL, &m->channel, err);
	if (r == 0 && line)
		r = channel_interruptible(m->channel, err);
	if (r == 0)
		r = readahead_pool_new(&m->readahead, err);
	if (r == 0 && !m->read_only)
		r = stage_area_new(m, &m->stages, err);
	return r;
}

static int mount_new(struct smfs_store *s, const char *dir, unsigned flags,
		     const struct mount_line *line, struct smfs_mount **out, struct err *err)
{
	struct smfs_mount *m = calloc(1, sizeof(*m));
	int r;

	if (!m)
		return err_set(err, ENOMEM, "mount %s: out of memory", dir);
	r = node_table_init(&m->nodes, inode_destroy, err);
	if (r == 0 && pthread_key_create(&m->buffers, free) != 0) {
		node_table_free(&m->nodes);
		r = err_set(err, EAGAIN, "mount %s: too many mounts in this process", dir);
	}
	if (r < 0) {
		free(m);
		return r;
	}
	m->store = s;
	m->read_only = flags & SMFS_MOUNT_RDONLY;
	m->ended_fd = -1;
	m->names_seq = smfs_store_seq(s);
	clock_gettime(CLOCK_REALTIME, &m->names_changed);
	dircache_init(&m->dirs, s);
	pthread_mutex_init(&m->names_lock, NULL);
	pthread_mutex_init(&m->handles_lock, NULL);
	pthread_mutex_init(&m->state_lock, NULL);
	pthread_mutex_init(&m->wake_lock, NULL);
	r = set_up(m, line, err);
	if (r < 0)
		mount_free(m);
	else
		*out = m;
	return r;
}

/* Takes `m` over, and its root inode, which may be NULL after an error `r`. */
static int mount_start(struct smfs_mount *m, struct inode *root, bool tree, int r,
		       struct smfs_mount **out, struct err *err)
{
	if (r == 0) {
		m->root = root;
		node_set_root(&m->nodes, &root->node);
		r = new_session(m, err);
	}
	if (r == 0)
		r = channel_mount(m->channel, m->dir, tree ? "smfs" : m->store_dir, m->read_only,
				  FS_IO_MAX, err);
	if (r < 0) {
		mount_free(m);
		return r;
	}
	takeover_begin(m->takeover);
	stage_area_begin(m->stages);
	r = channel_greet(m->channel, err);
	if (r == 0)
		r = start_server(m, err);
	if (r < 0) {
		umount2(m->dir, MNT_FORCE | MNT_DETACH);
		channel_wait(m->channel);
		mount_free(m);
		return r;
	}
	*out = m;
	return 0;
}

static int start_store(struct smfs_store *s, const char *dir, unsigned flags,
		       const struct mount_line *line, struct smfs_mount **out, struct err *err)
{
	struct smfs_mount *m;
	struct inode *root = NULL;
	int r = mount_new(s, dir, flags, line, &m, err);

	if (r < 0)
		return r;
	/* A mount lives long: it leases name by name. */
	smfs_store_unpin(s);
	r = check_dir(dir, &m->dir, err);
	if (r == 0)
		r = hot_new(m, flags, &m->hot, err);
	if (r == 0)
		r = names_root_new(m, &root, err);
	if (r == 0 && line) {
		snprintf(m->area->dir, sizeof(m->area->dir), "%s", m->dir);
		snprintf(m->area->store, sizeof(m->area->store), "%s", m->store_dir);
		atomic_store(&m->area->flags, flags);
	}
	return mount_start(m, root, false, r, out, err);
}

int smfs_mount_store(struct smfs_store *s, const char *dir, unsigned flags, struct smfs_mount **out,
		     struct err *err)
{
	return start_store(s, dir, flags, NULL, out, err);
}

int mount_first(struct smfs_store *s, const char *dir, unsigned flags,
		const struct mount_line *line, struct smfs_mount **out, struct err *err)
{
	return start_store(s, dir, flags, line, out, err);
}

int mount_prepare(struct smfs_store *s, const struct mount_line *line, struct smfs_mount **out,
		  struct err *err)
{
	struct takeover *t;
	struct smfs_mount *m;
	int r = takeover_map(line->table, &t, err);

	if (r < 0)
		return r;
	unsigned flags = atomic_load(&takeover_area(t)->flags);
	takeover_unmap(t);
	r = mount_new(s, "", flags, line, &m, err);
	if (r < 0)
		return r;
	m->dir = strdup(m->area->dir);
	if (!m->dir)
		r = err_set(err, ENOMEM, "take over: out of memory");
	if (r == 0)
		r = hot_new(m, flags, &m->hot, err);
	if (r == 0)
		r = names_root_new(m, &m->root, err);
	if (r == 0) {
		node_set_root(&m->nodes, &m->root->node);
		r = new_session(m, err);
	}
	if (r == 0)
		r = channel_resume(m->channel, err);
	if (r < 0)
		mount_free(m);
	else
		*out = m;
	return r;
}

int mount_go(struct smfs_mount *m, struct err *err)
{
	takeover_begin(m->takeover);
	stage_area_begin(m->stages);
	int r = takeover_restore(m, err);
	return r < 0 ? r : start_server(m, err);
}

int mount_drain(struct smfs_mount *m, struct err *err)
{
	letgo_stop(m);
	channel_drain(m->channel);
	pthread_join(m->server, NULL);
	size_t copies = m->stages ? stage_area_count(m->stages) : 0;
	if (copies == 0) {
		hot_stop(m->hot);
		return 0;
	}
	int r = start_server(m, err);
	return r < 0 ? r
		     : err_set(err, EBUSY, "%zu snapshot%s being copied in; try again when done",
			       copies, copies == 1 ? " is" : "s are");
}

int smfs_mount_tree(struct smfs_store *s, const struct smfs_id *id, const struct smfs_entry *attr,
		    const char *dir, struct smfs_mount **out, struct err *err)
{
	struct node_key key = {.tag = KEY_FIXED};
	struct smfs_mount *m;
	struct inode *root = NULL;
	int r = mount_new(s, dir, SMFS_MOUNT_RDONLY, NULL, &m, err);

	if (r < 0)
		return r;
	r = check_dir(dir, &m->dir, err);
	if (r == 0)
		r = tree_dir_new(m, NULL, "", &key, IN_TREE, id, id, &root, err);
	if (r == 0)
		r = smfs_lease_root(s, id, &root->lease, err);
	if (r < 0 && root) {
		inode_destroy(&root->node);
		root = NULL;
	}
	if (r == 0 && attr) {
		root->st.st_mode = S_IFDIR | (attr->mode & 07777);
		root->st.st_uid = attr->uid;
		root->st.st_gid = attr->gid;
		root->st.st_mtim.tv_sec = attr->mtime_sec;
		root->st.st_mtim.tv_nsec = attr->mtime_nsec;
	} else if (r == 0) {
		root->st.st_mode = S_IFDIR | 0755;
	}
	return mount_start(m, root, true, r, out, err);
}

int smfs_mount_fd(const struct smfs_mount *m)
{
	return m->ended_fd;
}

static bool has_ended(struct smfs_mount *m)
{
	pthread_mutex_lock(&m->state_lock);
	bool ended = m->ended;
	pthread_mutex_unlock(&m->state_lock);
	return ended;
}

int smfs_mount_detach(struct smfs_mount *m, struct err *err)
{
	if (!has_ended(m) && umount2(m->dir, MNT_DETACH) < 0)
		return err_errno(err, "unmount %s", m->dir);
	return 0;
}

void smfs_mount_stop(struct smfs_mount *m)
{
	if (!m)
		return;
	/* In use: forced, which ends the connection, so that the threads end in every case. */
	if (!has_ended(m) && umount2(m->dir, 0) < 0 && umount2(m->dir, MNT_FORCE | MNT_DETACH) < 0)
		fuse_session_exit(m->se);
	pthread_join(m->server, NULL);
	mount_free(m);
}
