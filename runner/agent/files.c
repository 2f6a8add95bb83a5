/* Files and trees of the guest, read and written for the host: READ, WRITE, FETCH, PUT. */
#include "runner/agent/session.h"

#include "runner/proto/tree.h"
#include "smfs/base/cleanup.h"

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

static int open_root(const struct guest *g, struct err *err)
{
	int fd = open(g->root[0] ? g->root : "/", O_PATH | O_DIRECTORY | O_CLOEXEC);

	return fd < 0 ? err_errno(err, "open the root") : fd;
}

static int say_opened(int fd, const struct agent_opened *o, struct err *err)
{
	cleanup_writer struct writer w = WRITER_INIT;

	agent_put_opened(&w, o);
	return agent_frame_send(fd, AGENT_OPENED, &w, SESSION_REPLY_MS, err);
}

static int say_done(int fd, const struct agent_done *d, struct err *err)
{
	cleanup_writer struct writer w = WRITER_INIT;

	agent_put_done(&w, d);
	return agent_frame_send(fd, AGENT_DONE, &w, SESSION_REPLY_MS, err);
}

/*
 * A transfer that failed half way: the peer hears why, and what it still sends is dropped until it
 * has closed, since closing with its bytes unread could cost it the answer.
 */
static int fail_midway(int fd, const struct err *why)
{
	uint64_t end = monotonic_us() + SESSION_REPLY_MS * 1000ull, now;
	static uint8_t buf[65536];

	if (session_refuse(fd, why) < 0)
		return -ECONNRESET;
	while ((now = monotonic_us()) < end) {
		struct pollfd p = {.fd = fd, .events = POLLIN};
		ssize_t n;

		if (poll(&p, 1, (int)((end - now) / 1000 + 1)) <= 0)
			continue;
		n = recv(fd, buf, sizeof(buf), MSG_DONTWAIT);
		if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
			break;
	}
	return -ECONNRESET;
}

/* ---- READ, WRITE --------------------------------------------------------------------------- */

static int open_file(int root, const char *path, struct agent_opened *o, struct err *err)
{
	/* Not blocking: a FIFO would wait for its writer. */
	cleanup_fd int fd = tree_open(root, path, O_RDONLY | O_NONBLOCK, err);
	struct stat st;

	if (fd < 0)
		return fd;
	if (fstat(fd, &st) < 0)
		return err_errno(err, "read %s", path);
	if (!S_ISREG(st.st_mode))
		return err_set(err, S_ISDIR(st.st_mode) ? EISDIR : EINVAL,
			       "read %s: it is no regular file", path);
	*o = (struct agent_opened){.size = (uint64_t)st.st_size,
				   .mode = st.st_mode & 07777,
				   .uid = st.st_uid,
				   .gid = st.st_gid,
				   .mtime_ns = (int64_t)st.st_mtim.tv_sec * 1000000000 +
					       st.st_mtim.tv_nsec};
	return steal_fd(&fd);
}

static int serve_read(int root, int fd, const struct agent_frame *f, struct err *err)
{
	struct agent_opened o = {0};
	struct agent_done done;
	struct agent_read q;
	int r = agent_get_read(f, &q, err);

	if (r < 0)
		return r;
	cleanup_fd int file = open_file(root, q.path, &o, err);
	if (file < 0)
		return session_refuse(fd, err);
	r = say_opened(fd, &o, err);
	if (r == 0)
		r = file_send(fd, file, q.offset, q.length, -1, &done, err);
	return r < 0 ? fail_midway(fd, err) : 0;
}

/* What is missing above the file, one after the other; a link among them is followed inside root.
 */
static int make_parents(int root, const char *path, struct err *err)
{
	char part[AGENT_PATH_MAX + 1];

	for (const char *p = path; (p = strchr(p + 1, '/'));) {
		cleanup_fd int above = -1;
		char name[AGENT_NAME_MAX + 1];
		int fd;

		snprintf(part, sizeof(part), "%.*s", (int)(p - path), path);
		fd = tree_open(root, part, O_PATH | O_DIRECTORY, NULL);
		if (fd >= 0) {
			close(fd);
			continue;
		}
		if (tree_target(root, part, "", &above, name, err) < 0)
			return -err->code;
		if (mkdirat(above, name, 0755) < 0 && errno != EEXIST)
			return err_errno(err, "create folder %s", part);
	}
	return 0;
}

static int write_to(int dirfd, const char *name, int fd, struct agent_frame *f,
		    const struct agent_write *q, struct agent_done *done, struct err *err)
{
	char tmp[32];
	cleanup_fd int file = file_begin(dirfd, tmp, err);
	const struct agent_opened none = {0};
	int r;

	if (file < 0)
		return err_wrap(err, file, "write %s", q->path);
	r = say_opened(fd, &none, err);
	if (r == 0)
		r = file_receive(fd, f, file, q->path, INT64_MAX, -1, done, err);
	/* The owner may only be changed by root, which the agent is but for its tests. */
	if (r == 0 && geteuid() == 0 && fchown(file, q->uid, q->gid) < 0)
		r = err_errno(err, "write %s: set its owner", q->path);
	if (r == 0 && (fchmod(file, q->mode) < 0 || fsync(file) < 0))
		r = err_errno(err, "write %s", q->path);
	if (r == 0 && renameat(dirfd, tmp, dirfd, name) < 0)
		r = err_errno(err, "write %s: replace it", q->path);
	if (r < 0)
		unlinkat(dirfd, tmp, 0);
	return r;
}

static int serve_write(int root, int fd, struct agent_frame *f, struct err *err)
{
	char name[AGENT_NAME_MAX + 1];
	cleanup_fd int dirfd = -1;
	struct agent_done done;
	struct agent_write q;
	int r = agent_get_write(f, &q, err);

	if (r < 0)
		return r;
	if (q.parents)
		r = make_parents(root, q.path, err);
	if (r == 0)
		r = tree_target(root, q.path, "", &dirfd, name, err);
	if (r == 0 && !strcmp(name, "."))
		r = err_set(err, EISDIR, "write %s: it is a folder", q.path);
	if (r < 0)
		return session_refuse(fd, err);
	r = write_to(dirfd, name, fd, f, &q, &done, err);
	return r < 0 ? fail_midway(fd, err) : say_done(fd, &done, err);
}

/* ---- FETCH, PUT ---------------------------------------------------------------------------- */

static int serve_fetch(int root, int fd, const struct agent_frame *f, struct err *err)
{
	const struct agent_opened none = {0};
	char name[AGENT_NAME_MAX + 1];
	cleanup_fd int dirfd = -1;
	struct agent_done done;
	struct agent_fetch q;
	struct stat st;
	int r = agent_get_fetch(f, &q, err);

	if (r < 0)
		return r;
	r = tree_target(root, q.path, "", &dirfd, name, err);
	if (r == 0 && fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		r = err_errno(err, "copy %s", q.path);
	if (r < 0)
		return session_refuse(fd, err);
	r = say_opened(fd, &none, err);
	if (r == 0)
		r = tree_send(fd, dirfd, name, -1, &done, err);
	return r < 0 ? fail_midway(fd, err) : 0;
}

static int serve_put(int root, int fd, struct agent_frame *f, struct err *err)
{
	struct tree_policy p = {
		.devices = true, .max_bytes = UINT64_MAX, .max_entries = UINT64_MAX, .idle_ms = -1};
	const struct agent_opened none = {0};
	char name[AGENT_NAME_MAX + 1];
	cleanup_fd int dirfd = -1;
	struct agent_done done;
	struct agent_put q;
	int r = agent_get_put(f, &q, err);

	if (r < 0)
		return r;
	r = tree_target(root, q.path, q.name, &dirfd, name, err);
	if (r < 0)
		return session_refuse(fd, err);
	p.owners = q.owners;
	r = say_opened(fd, &none, err);
	if (r == 0)
		r = tree_receive(fd, f, dirfd, name, &p, &done, err);
	return r < 0 ? fail_midway(fd, err) : say_done(fd, &done, err);
}

int files_serve(struct guest *g, int fd, struct agent_frame *f, struct err *err)
{
	cleanup_fd int root = open_root(g, err);

	if (root < 0)
		return session_refuse(fd, err);
	switch (f->type) {
	case AGENT_READ:
		return serve_read(root, fd, f, err);
	case AGENT_WRITE:
		return serve_write(root, fd, f, err);
	case AGENT_FETCH:
		return serve_fetch(root, fd, f, err);
	default:
		return serve_put(root, fd, f, err);
	}
}
