/* The receiving side of files and trees, which takes nothing on trust. See tree.h. */
#include "runner/proto/tree.h"

#include "smfs/base/cleanup.h"
#include "smfs/base/io.h"
#include "smfs/base/num.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>

/* ---- paths --------------------------------------------------------------------------------- */

static int open_how(int dirfd, const char *path, int flags, uint64_t resolve)
{
	struct open_how how = {.flags = (uint64_t)(flags | O_CLOEXEC), .resolve = resolve};
	int fd;

	/* EAGAIN: something was renamed meanwhile, and the kernel will not say that it was safe. */
	do
		fd = (int)syscall(SYS_openat2, dirfd, path, &how, sizeof(how));
	while (fd < 0 && (errno == EAGAIN || errno == EINTR));
	return fd < 0 ? -errno : fd;
}

int tree_open(int root, const char *path, int flags, struct err *err)
{
	int fd = root < 0 ? openat(AT_FDCWD, path, flags | O_CLOEXEC)
			  : open_how(root, path, flags, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS);

	if (root < 0 && fd < 0)
		fd = -errno;
	return fd < 0 ? err_set(err, -fd, "open %s: %s", path, strerror(-fd)) : fd;
}

int tree_target(int root, const char *path, const char *name, int *dirfd,
		char as[AGENT_NAME_MAX + 1], struct err *err)
{
	char above[AGENT_PATH_MAX + 1];
	size_t n = strlen(path), last;
	struct err e = ERR_INIT;
	int fd;

	if (n == 0 || n > AGENT_PATH_MAX)
		return err_set(err, ENAMETOOLONG, "a path of %zu bytes", n);
	fd = tree_open(root, path, O_PATH | O_DIRECTORY, &e);
	if (fd >= 0) {
		snprintf(as, AGENT_NAME_MAX + 1, "%s", name[0] ? name : ".");
		*dirfd = fd;
		return 0;
	}
	if ((fd != -ENOENT && fd != -ENOTDIR) || path[n - 1] == '/')
		return err_set(err, -fd, "%s", e.msg);
	last = n;
	while (last && path[last - 1] != '/')
		last--;
	memcpy(above, path, last);
	above[last] = '\0';
	if (n - last > AGENT_NAME_MAX || !agent_path_check(path + last))
		return err_set(err, EINVAL, "%s: does not end in a name", path);
	fd = tree_open(root, last ? above : ".", O_PATH | O_DIRECTORY, err);
	if (fd < 0)
		return fd;
	snprintf(as, AGENT_NAME_MAX + 1, "%s", path + last);
	*dirfd = fd;
	return 0;
}

static void temporary_name(char tmp[32])
{
	uint64_t r = 0;

	/* Without entropy the name is one that may be taken, and that is then an error. */
	if (getrandom(&r, sizeof(r), 0) != sizeof(r))
		r = (uint64_t)getpid();
	snprintf(tmp, 32, ".smvm-%016llx", (unsigned long long)r);
}

int file_begin(int dirfd, char tmp[32], struct err *err)
{
	int fd;

	temporary_name(tmp);
	fd = openat(dirfd, tmp, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	return fd < 0 ? err_errno(err, "create a file") : fd;
}

/* ---- one file ------------------------------------------------------------------------------- */

static int next_frame(int conn, struct agent_frame *f, int idle_ms, struct err *err)
{
	int r = agent_frame_read(conn, f, idle_ms, err);

	return r == 0 && f->type == AGENT_ERROR ? agent_get_error(f, err) : r;
}

int file_receive(int conn, struct agent_frame *f, int fd, const char *what, uint64_t max_bytes,
		 int idle_ms, struct agent_done *done, struct err *err)
{
	*done = (struct agent_done){.entries = 1};
	for (;;) {
		int r = next_frame(conn, f, idle_ms, err);

		if (r < 0)
			return r;
		if (f->type == AGENT_DONE)
			return 0;
		if (f->type != AGENT_DATA || f->len == 0)
			return err_set(err, EPROTO, "%s: %s instead of its content", what,
				       agent_type_name(f->type));
		if (f->len > max_bytes - done->bytes)
			return err_set(err, EFBIG, "%s: more than %llu bytes", what,
				       (unsigned long long)max_bytes);
		r = write_full(fd, f->data, f->len);
		if (r < 0)
			return err_set(err, -r, "write %s: %s", what, strerror(-r));
		done->bytes += f->len;
	}
}

/* ---- trees --------------------------------------------------------------------------------- */

/* A folder that was made, for the end: its mode may keep us out, and its time changes with it. */
struct made {
	struct made *next;
	uint32_t mode, uid, gid;
	int64_t mtime_ns;
	char path[];
};

struct receiver {
	int conn;
	struct agent_frame *f;
	const struct tree_policy *p;
	struct agent_done *done;
	struct err *err;
	int dirfd;	   /* where the top is to be, */
	const char *name;  /* and how it is called */
	int top;	   /* the top when it is a folder, else -1 */
	struct made *made; /* the last one first */
	size_t made_bytes;
	struct agent_entry e;
};

static const char *shown(const struct receiver *c)
{
	return c->e.path[0] ? c->e.path : c->name;
}

static uint32_t mode_of(const struct receiver *c, uint32_t mode)
{
	return mode & (c->p->owners ? 07777 : 0777);
}

/* The folder that `path` is in, and the name it has there; no symbolic link is passed. */
static int folder_of(struct receiver *c, const char *path, const char **name)
{
	const char *slash = strrchr(path, '/');
	char above[AGENT_PATH_MAX + 1];
	int fd;

	*name = slash ? slash + 1 : path;
	if (!path[0]) {
		*name = c->name;
		fd = fcntl(c->dirfd, F_DUPFD_CLOEXEC, 3);
		return fd < 0 ? err_errno(c->err, "%s", c->name) : fd;
	}
	if (c->top < 0)
		return err_set(c->err, EPROTO, "%s: in something that is no folder", path);
	snprintf(above, sizeof(above), "%.*s", slash ? (int)(slash - path) : 1, slash ? path : ".");
	fd = open_how(c->top, above, O_PATH | O_DIRECTORY,
		      RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS);
	if (fd == -ELOOP || fd == -EXDEV)
		return err_set(c->err, EPERM,
			       "refused: %s leads through a symbolic link or out of the folder",
			       path);
	return fd < 0 ? err_set(c->err, -fd, "%s: %s", path, strerror(-fd)) : fd;
}

static struct timespec time_of(int64_t ns)
{
	int64_t s = ns / 1000000000, rest = ns % 1000000000;

	if (rest < 0) {
		rest += 1000000000;
		s--;
	}
	return (struct timespec){.tv_sec = s, .tv_nsec = rest};
}

static int settle(struct receiver *c, int fd, uint32_t mode, uint32_t uid, uint32_t gid,
		  int64_t mtime_ns, const char *path)
{
	const struct timespec t[2] = {{.tv_nsec = UTIME_OMIT}, time_of(mtime_ns)};

	/* The owner first: a change of it takes setuid away. */
	if ((c->p->owners && fchown(fd, uid, gid) < 0) || fchmod(fd, mode_of(c, mode)) < 0 ||
	    futimens(fd, t) < 0)
		return err_errno(c->err, "set owner, mode and time of %s", path);
	return 0;
}

static int remember(struct receiver *c)
{
	size_t n = strlen(c->e.path) + 1;
	struct made *m;

	c->made_bytes += sizeof(*m) + n;
	if (c->made_bytes > TREE_DIRS_MAX)
		return err_set(c->err, E2BIG, "%s: too many folders to copy at once", c->e.path);
	m = malloc(sizeof(*m) + n);
	if (!m)
		return err_set(c->err, ENOMEM, "%s: out of memory", c->e.path);
	*m = (struct made){.next = c->made,
			   .mode = c->e.mode,
			   .uid = c->e.uid,
			   .gid = c->e.gid,
			   .mtime_ns = c->e.mtime_ns};
	memcpy(m->path, c->e.path, n);
	c->made = m;
	return 0;
}

/* One that is there stays as it is. */
static int take_dir(struct receiver *c, int dirfd, const char *name)
{
	bool fresh = mkdirat(dirfd, name, 0700) == 0;
	int fd;

	if (!fresh && errno != EEXIST)
		return err_errno(c->err, "create folder %s", shown(c));
	fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 && (errno == ENOTDIR || errno == ELOOP))
		return err_set(c->err, EEXIST, "create folder %s: something else is there",
			       shown(c));
	if (fd < 0)
		return err_errno(c->err, "open folder %s", shown(c));
	if (c->e.path[0])
		close(fd);
	else
		c->top = fd;
	return fresh ? remember(c) : 0;
}

static bool all_zero(const uint8_t *p, size_t n)
{
	return n && !p[0] && !memcmp(p, p + 1, n - 1);
}

/* Exactly as many bytes as the entry said; blocks of zeros stay holes. */
static int take_content(struct receiver *c, int fd)
{
	uint64_t at = 0;

	while (at < c->e.size) {
		int r = next_frame(c->conn, c->f, c->p->idle_ms, c->err);

		if (r < 0)
			return r;
		if (c->f->type != AGENT_DATA || c->f->len == 0 || c->f->len > c->e.size - at)
			return err_set(c->err, EPROTO, "%s: %s instead of its content", shown(c),
				       agent_type_name(c->f->type));
		r = all_zero(c->f->data, c->f->len) ? 0
						    : pwrite_full(fd, c->f->data, c->f->len, at);
		if (r < 0)
			return err_set(c->err, -r, "write %s: %s", shown(c), strerror(-r));
		at += c->f->len;
	}
	c->done->bytes += at;
	if (ftruncate(fd, (off_t)c->e.size) < 0)
		return err_errno(c->err, "write %s", shown(c));
	return 0;
}

static int take_file(struct receiver *c, int dirfd, char tmp[32])
{
	cleanup_fd int fd = -1;
	int r;

	if (c->e.size > INT64_MAX || c->e.size > c->p->max_bytes - c->done->bytes)
		return err_set(c->err, EFBIG, "%s: with it, more than %llu bytes", shown(c),
			       (unsigned long long)c->p->max_bytes);
	fd = file_begin(dirfd, tmp, c->err);
	if (fd < 0)
		return err_wrap(c->err, fd, "%s", shown(c));
	r = take_content(c, fd);
	return r < 0 ? r : settle(c, fd, c->e.mode, c->e.uid, c->e.gid, c->e.mtime_ns, shown(c));
}

static int take_hardlink(struct receiver *c, int dirfd, const char *tmp)
{
	const char *name;
	cleanup_fd int from = -1;
	struct stat st;

	if (!c->e.path[0] || !c->e.target[0])
		return err_set(c->err, EPROTO, "a hard link of the top");
	from = folder_of(c, c->e.target, &name);
	if (from < 0)
		return from;
	if (linkat(from, name, dirfd, tmp, 0) < 0)
		return err_errno(c->err, "link %s to %s", c->e.path, c->e.target);
	if (fstatat(dirfd, tmp, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISREG(st.st_mode))
		return err_set(c->err, EPERM, "refused: %s is a hard link to what is no file",
			       c->e.path);
	return 0;
}

/* Symbolic links and special files: those have no descriptor to set things by. */
static int take_special(struct receiver *c, int dirfd, const char *tmp)
{
	const struct timespec t[2] = {{.tv_nsec = UTIME_OMIT}, time_of(c->e.mtime_ns)};
	const mode_t kind = c->e.type == ENTRY_FIFO   ? S_IFIFO
			    : c->e.type == ENTRY_CHAR ? S_IFCHR
						      : S_IFBLK;
	int r = c->e.type == ENTRY_SYMLINK ? symlinkat(c->e.target, dirfd, tmp)
					   : mknodat(dirfd, tmp, kind | 0600, (dev_t)c->e.rdev);

	if (r == 0 && c->p->owners)
		r = fchownat(dirfd, tmp, c->e.uid, c->e.gid, AT_SYMLINK_NOFOLLOW);
	if (r == 0 && c->e.type != ENTRY_SYMLINK)
		r = fchmodat(dirfd, tmp, mode_of(c, c->e.mode), 0);
	if (r == 0)
		r = utimensat(dirfd, tmp, t, AT_SYMLINK_NOFOLLOW);
	return r < 0 ? err_errno(c->err, "create %s", shown(c)) : 0;
}

static int place(struct receiver *c, int dirfd, const char *name)
{
	char tmp[32] = "";
	int r;

	if (c->e.type == ENTRY_FILE) {
		r = take_file(c, dirfd, tmp);
	} else {
		temporary_name(tmp);
		r = c->e.type == ENTRY_HARDLINK ? take_hardlink(c, dirfd, tmp)
						: take_special(c, dirfd, tmp);
	}
	if (r == 0 && renameat(dirfd, tmp, dirfd, name) < 0)
		r = err_errno(c->err, "put %s in its place", shown(c));
	/* Also after success: a rename onto another name of the same file leaves both. */
	if (tmp[0] && (r < 0 || c->e.type == ENTRY_HARDLINK))
		unlinkat(dirfd, tmp, 0);
	return r;
}

static int take_entry(struct receiver *c)
{
	const bool first = c->done->entries == 0;
	cleanup_fd int dirfd = -1;
	const char *name;
	int r = agent_get_entry(c->f, &c->e, c->err);

	if (r < 0)
		return r;
	if (first != !c->e.path[0])
		return err_set(c->err, EPROTO, "a tree whose top is not its first entry");
	if (++c->done->entries > c->p->max_entries)
		return err_set(c->err, E2BIG, "more than %llu files and folders",
			       (unsigned long long)c->p->max_entries);
	if (!c->p->devices && c->e.type >= ENTRY_FIFO) {
		c->done->skipped++;
		return 0;
	}
	dirfd = folder_of(c, c->e.path, &name);
	if (dirfd < 0)
		return dirfd;
	if (c->e.type == ENTRY_DIR)
		return take_dir(c, dirfd, name);
	if (!strcmp(name, "."))
		return err_set(c->err, EISDIR,
			       "the destination is a folder, what is copied is none");
	return place(c, dirfd, name);
}

/* Those below before those above. */
static int settle_dirs(struct receiver *c)
{
	for (struct made *m = c->made; m; m = m->next) {
		cleanup_fd int fd =
			open_how(c->top, m->path[0] ? m->path : ".", O_RDONLY | O_DIRECTORY,
				 RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS);
		int r = fd < 0 ? err_set(c->err, -fd, "folder %s: %s", m->path, strerror(-fd))
			       : settle(c, fd, m->mode, m->uid, m->gid, m->mtime_ns, m->path);

		if (r < 0)
			return r;
	}
	return 0;
}

int tree_receive(int conn, struct agent_frame *f, int dirfd, const char *name,
		 const struct tree_policy *p, struct agent_done *done, struct err *err)
{
	struct receiver *c = calloc(1, sizeof(*c));
	struct agent_done sent;
	int r = 0;

	*done = (struct agent_done){0};
	if (!c)
		return err_set(err, ENOMEM, "receive %s: out of memory", name);
	*c = (struct receiver){.conn = conn,
			       .f = f,
			       .p = p,
			       .done = done,
			       .err = err,
			       .dirfd = dirfd,
			       .name = name,
			       .top = -1};
	while ((r = next_frame(conn, f, p->idle_ms, err)) == 0 && f->type == AGENT_ENTRY)
		if ((r = take_entry(c)) < 0)
			break;
	if (r == 0 && f->type != AGENT_DONE)
		r = err_set(err, EPROTO, "%s in a tree", agent_type_name(f->type));
	if (r == 0)
		r = agent_get_done(f, &sent, err);
	if (r == 0 && done->entries == 0)
		r = err_set(err, EPROTO, "a tree without a top");
	if (r == 0) {
		r = settle_dirs(c);
		done->skipped += sent.skipped;
	}
	for (struct made *m = c->made, *next; m; m = next) {
		next = m->next;
		free(m);
	}
	if (c->top >= 0)
		close(c->top);
	free(c);
	return r;
}
