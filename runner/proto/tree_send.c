/* The sending side of files and trees. */
#include "runner/proto/tree.h"

#include "smfs/base/cleanup.h"
#include "smfs/base/num.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <poll.h>
#include <search.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>

/* A file with several names, by which of them it was sent. */
struct seen {
	dev_t dev;
	ino_t ino;
	char path[];
};

struct sender {
	int conn, idle_ms;
	struct agent_done *done;
	struct err *err;
	struct agent_entry e; /* path is where the walk is */
	void *links;	      /* tsearch(3) */
	unsigned nlinks;
	uint8_t buf[AGENT_DATA_MAX];
};

/* A peer that speaks while it is spoken to has failed. */
static int interrupted(int conn, int idle_ms, struct err *err)
{
	struct pollfd p = {.fd = conn, .events = POLLIN};
	struct agent_frame f = {0};
	int r;

	if (poll(&p, 1, 0) <= 0 || !p.revents)
		return 0;
	r = agent_frame_read(conn, &f, idle_ms, err);
	if (r == 0)
		r = f.type == AGENT_ERROR ? agent_get_error(&f, err)
					  : err_set(err, EPROTO, "the receiver of files sent %s",
						    agent_type_name(f.type));
	agent_frame_free(&f);
	return r;
}

static int send_frame(int conn, uint16_t type, const void *data, size_t len, int idle_ms,
		      struct err *err)
{
	int r = interrupted(conn, idle_ms, err);

	if (r < 0)
		return r;
	r = agent_frame_write(conn, type, data, len, idle_ms, err);
	/* What it said before it went away tells more than that it did. */
	if (r == -ECONNRESET) {
		struct err e = ERR_INIT;

		if (interrupted(conn, idle_ms, &e) < 0 && e.code != ECONNRESET)
			return err_set(err, e.code, "%s", e.msg);
	}
	return r;
}

static int send_done(int conn, const struct agent_done *d, int idle_ms, struct err *err)
{
	cleanup_writer struct writer w = WRITER_INIT;

	agent_put_done(&w, d);
	if (w.failed)
		return err_set(err, ENOMEM, "send files: out of memory");
	return send_frame(conn, AGENT_DONE, w.p, w.len, idle_ms, err);
}

int file_send(int conn, int fd, uint64_t offset, uint64_t length, int idle_ms,
	      struct agent_done *done, struct err *err)
{
	cleanup_free uint8_t *buf = malloc(AGENT_DATA_MAX);
	int r = 0;

	*done = (struct agent_done){.entries = 1};
	if (!buf)
		return err_set(err, ENOMEM, "send a file: out of memory");
	if (offset && lseek(fd, (off_t)MIN(offset, (uint64_t)INT64_MAX), SEEK_SET) < 0)
		return err_errno(err, "read from byte %llu", (unsigned long long)offset);
	while (r == 0 && length) {
		ssize_t n = read(fd, buf, (size_t)MIN(length, (uint64_t)AGENT_DATA_MAX));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_errno(err, "read the file");
		if (n == 0)
			break;
		r = send_frame(conn, AGENT_DATA, buf, (size_t)n, idle_ms, err);
		done->bytes += (uint64_t)n;
		length -= (uint64_t)n;
	}
	return r < 0 ? r : send_done(conn, done, idle_ms, err);
}

/* ---- trees --------------------------------------------------------------------------------- */

static int by_inode(const void *x, const void *y)
{
	const struct seen *a = x, *b = y;

	if (a->dev != b->dev)
		return a->dev < b->dev ? -1 : 1;
	return a->ino < b->ino ? -1 : a->ino > b->ino;
}

/* The path it was sent by before, or NULL: then it is noted by this one. */
static const char *sent_before(struct sender *s, const struct stat *st)
{
	size_t n = strlen(s->e.path) + 1;
	struct seen *new = malloc(sizeof(*new) + n), **found;

	if (!new)
		return NULL;
	new->dev = st->st_dev;
	new->ino = st->st_ino;
	memcpy(new->path, s->e.path, n);
	found = tfind(new, &s->links, by_inode);
	if (found) {
		free(new);
		return (*found)->path;
	}
	if (s->nlinks == TREE_LINKS_MAX || !tsearch(new, &s->links, by_inode))
		free(new);
	else
		s->nlinks++;
	return NULL;
}

static int send_entry(struct sender *s)
{
	cleanup_writer struct writer w = WRITER_INIT;

	agent_put_entry(&w, &s->e);
	s->done->entries++;
	if (w.failed)
		return err_set(s->err, ENOMEM, "send %s: out of memory", s->e.path);
	return send_frame(s->conn, AGENT_ENTRY, w.p, w.len, s->idle_ms, s->err);
}

/* As many bytes as were announced: of one that shrinks meanwhile the rest is zeros. */
static int send_file(struct sender *s, int dirfd, const char *name)
{
	cleanup_fd int fd = openat(dirfd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	struct stat st;
	bool ended = false;
	int r;

	if (fd < 0 && errno == ENOENT)
		return 0;
	if (fd < 0 || fstat(fd, &st) < 0)
		return err_errno(s->err, "open %s", s->e.path[0] ? s->e.path : name);
	if (!S_ISREG(st.st_mode))
		return err_set(s->err, EAGAIN, "%s changed its kind while it was sent", s->e.path);
	s->e.size = (uint64_t)st.st_size;
	r = send_entry(s);
	for (uint64_t left = s->e.size; r == 0 && left;) {
		size_t want = (size_t)MIN(left, (uint64_t)sizeof(s->buf));
		ssize_t n = ended ? 0 : read(fd, s->buf, want);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_errno(s->err, "read %s", s->e.path);
		if (n == 0) {
			ended = true;
			memset(s->buf, 0, want);
			n = (ssize_t)want;
		}
		r = send_frame(s->conn, AGENT_DATA, s->buf, (size_t)n, s->idle_ms, s->err);
		s->done->bytes += (uint64_t)n;
		left -= (uint64_t)n;
	}
	return r;
}

/* What the kernel makes up is no content. */
static bool is_made_up(int fd)
{
	static const unsigned long kinds[] = {
		PROC_SUPER_MAGIC, SYSFS_MAGIC,	 CGROUP2_SUPER_MAGIC, DEVPTS_SUPER_MAGIC,
		DEBUGFS_MAGIC,	  TRACEFS_MAGIC, BPF_FS_MAGIC,	      SECURITYFS_MAGIC};
	struct statfs fs;

	if (fstatfs(fd, &fs) < 0)
		return true;
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
		if ((unsigned long)fs.f_type == kinds[i])
			return true;
	return false;
}

static int send_one(struct sender *s, int dirfd, const char *name, unsigned depth, dev_t above);

static int send_dir(struct sender *s, int in, const char *name, unsigned depth, dev_t above)
{
	cleanup_fd int fd = openat(in, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	const size_t len = strlen(s->e.path);
	cleanup_dir DIR *d = NULL;
	struct dirent *e;
	struct stat st;
	int r;

	if (fd < 0 && errno == ENOENT)
		return 0;
	if (fd < 0 || fstat(fd, &st) < 0)
		return err_errno(s->err, "open %s", len ? s->e.path : name);
	r = send_entry(s);
	if (r < 0)
		return r;
	if (st.st_dev != above && is_made_up(fd)) {
		s->done->skipped++;
		return 0;
	}
	d = fdopendir(fd);
	if (!d)
		return err_errno(s->err, "read folder %s", s->e.path);
	(void)steal_fd(&fd);
	while (r == 0 && (errno = 0, e = readdir(d))) {
		size_t n = strlen(e->d_name);

		if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
			continue;
		if (depth == AGENT_DEPTH_MAX || len + 1 + n > AGENT_PATH_MAX)
			return err_set(s->err, ENAMETOOLONG, "%s: deeper than a copy goes",
				       s->e.path);
		snprintf(s->e.path + len, sizeof(s->e.path) - len, "%s%s", len ? "/" : "",
			 e->d_name);
		r = send_one(s, dirfd(d), e->d_name, depth + 1, st.st_dev);
		s->e.path[len] = '\0';
	}
	if (r == 0 && errno)
		return err_errno(s->err, "read folder %s", s->e.path);
	return r;
}

static int send_link(struct sender *s, int dirfd, const char *name)
{
	ssize_t n = readlinkat(dirfd, name, s->e.target, sizeof(s->e.target) - 1);

	if (n < 0)
		return errno == ENOENT ? 0 : err_errno(s->err, "read link %s", s->e.path);
	s->e.target[n] = '\0';
	return send_entry(s);
}

static int send_one(struct sender *s, int dirfd, const char *name, unsigned depth, dev_t above)
{
	const char *first;
	struct stat st;

	if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		/* Gone since the folder was read; the top is the caller's to miss. */
		return errno == ENOENT && depth ? 0 : err_errno(s->err, "look at %s", name);
	s->e.mode = st.st_mode & 07777;
	s->e.uid = st.st_uid;
	s->e.gid = st.st_gid;
	s->e.mtime_ns = (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec;
	s->e.size = s->e.rdev = 0;
	s->e.target[0] = '\0';
	switch (st.st_mode & S_IFMT) {
	case S_IFDIR:
		s->e.type = ENTRY_DIR;
		return send_dir(s, dirfd, name, depth, depth ? above : st.st_dev);
	case S_IFLNK:
		s->e.type = ENTRY_SYMLINK;
		return send_link(s, dirfd, name);
	case S_IFREG:
		first = st.st_nlink > 1 && depth ? sent_before(s, &st) : NULL;
		s->e.type = first ? ENTRY_HARDLINK : ENTRY_FILE;
		if (!first)
			return send_file(s, dirfd, name);
		snprintf(s->e.target, sizeof(s->e.target), "%s", first);
		return send_entry(s);
	case S_IFIFO:
		s->e.type = ENTRY_FIFO;
		return send_entry(s);
	case S_IFCHR:
	case S_IFBLK:
		s->e.type = S_ISCHR(st.st_mode) ? ENTRY_CHAR : ENTRY_BLOCK;
		s->e.rdev = st.st_rdev;
		return send_entry(s);
	default:
		s->done->skipped++;
		return 0;
	}
}

int tree_send(int conn, int dirfd, const char *name, int idle_ms, struct agent_done *done,
	      struct err *err)
{
	struct sender *s = calloc(1, sizeof(*s));
	int r;

	*done = (struct agent_done){0};
	if (!s)
		return err_set(err, ENOMEM, "send %s: out of memory", name);
	s->conn = conn;
	s->idle_ms = idle_ms;
	s->done = done;
	s->err = err;
	r = send_one(s, dirfd, name, 0, 0);
	tdestroy(s->links, free);
	free(s);
	if (r == 0 && done->entries == 0)
		r = err_set(err, ENOENT, "%s: nothing there that can be sent", name);
	return r < 0 ? r : send_done(conn, done, idle_ms, err);
}
