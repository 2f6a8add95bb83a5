/* export.c - smfs export: a snapshot becomes a directory, without a mount; streams: bundle.c. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "smfs/base/cleanup.h"
#include "smfs/base/io.h"
#include "smfs/base/num.h"
#include "smfs/cmd/bundle.h"

#define PIECE ((size_t)MIB)

struct target {
	int dirfd;
	_Atomic uint64_t done; /* holes included */
	uint8_t buf[PIECE];
};

static uint64_t bytes_out(void *arg)
{
	return ((struct target *)arg)->done;
}

/* One run of data; what is between runs stays a hole. */
static int copy_run(struct target *t, int fd, struct smfs_file *f, uint64_t from, uint64_t to,
		    struct err *err)
{
	while (from < to) {
		if (cmd_interrupted)
			return err_set(err, EINTR, "interrupted");
		ssize_t n = smfs_file_pread(f, t->buf, (size_t)MIN(to - from, PIECE), from, err);
		if (n < 0)
			return (int)n;
		if (n == 0)
			return err_set(err, EIO, "the file ends early");
		int r = pwrite_full(fd, t->buf, (size_t)n, from);
		if (r < 0)
			return err_set(err, -r, "write: %s", strerror(-r));
		from += (uint64_t)n;
		t->done += (uint64_t)n;
	}
	return 0;
}

static int copy_data(struct target *t, int fd, struct smfs_file *f, uint64_t size, struct err *err)
{
	uint64_t at = 0, data = 0, hole = 0;
	int r = 0;

	while (r == 0 && at < size) {
		r = smfs_file_seek(f, at, SEEK_DATA, &data, err);
		if (r == -ENXIO)
			break;
		if (r == 0)
			r = smfs_file_seek(f, data, SEEK_HOLE, &hole, err);
		if (r < 0)
			return r;
		t->done += data - at;
		r = copy_run(t, fd, f, data, hole, err);
		at = hole;
	}
	if (r == 0 || r == -ENXIO) {
		if (ftruncate(fd, (off_t)size) < 0 || fsync(fd) < 0)
			return err_errno(err, "write");
		return 0;
	}
	return r;
}

static int export_file(struct smfs_store *s, struct target *t, const struct smfs_entry *e,
		       struct err *err)
{
	struct smfs_file *f;

	if (!S_ISREG(e->mode))
		return err_set(err, ENOTSUP, "export %s: not a regular file", e->name);
	cleanup_fd int fd =
		openat(t->dirfd, e->name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return err_errno(err, "create %s", e->name);
	int r = smfs_file_open(s, &e->content, &f, err);
	if (r < 0)
		return err_wrap(err, r, "export %s", e->name);
	r = copy_data(t, fd, f, e->content.size, err);
	smfs_file_close(f);
	return r < 0 ? err_wrap(err, r, "export %s", e->name) : 0;
}

static void discard(int dirfd, struct smfs_dir *d, const char *path)
{
	for (size_t i = 0; i < smfs_dir_count(d); i++)
		unlinkat(dirfd, smfs_dir_at(d, i)->name, 0);
	rmdir(path);
}

/* Into a directory beside the wanted one, which gets its name when all is there. */
static int export(struct cmd *c, struct smfs_store *s, const struct smfs_name *n, const char *dir,
		  struct err *err)
{
	cleanup_free char *partial = NULL;
	struct smfs_dir *d;
	int r;

	if (access(dir, F_OK) == 0)
		return err_set(err, EEXIST, "export to %s: it exists", dir);
	if (asprintf(&partial, "%s.partial-%d", dir, (int)getpid()) < 0) {
		partial = NULL;
		return err_set(err, ENOMEM, "export: out of memory");
	}
	r = smfs_dir_open(s, &n->root, &d, err);
	if (r < 0)
		return err_wrap(err, r, "export %s", n->name);
	struct target *t = calloc(1, sizeof(*t));
	if (!t)
		r = err_set(err, ENOMEM, "export: out of memory");
	else if (mkdir(partial, 0700) < 0)
		r = err_errno(err, "create %s", partial);
	if (r < 0) {
		smfs_dir_close(d);
		free(t);
		return r;
	}
	struct cmd_progress *p = cmd_progress_start(c, "exporting", n->logical_bytes, bytes_out, t);
	cleanup_fd int fd = t->dirfd = open(partial, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		r = err_errno(err, "open %s", partial);
	for (size_t i = 0; r == 0 && i < smfs_dir_count(d); i++)
		r = export_file(s, t, smfs_dir_at(d, i), err);
	if (r == 0 &&
	    (fsync(fd) < 0 || renameat2(AT_FDCWD, partial, AT_FDCWD, dir, RENAME_NOREPLACE) < 0))
		r = err_errno(err, "export to %s", dir);
	if (r < 0)
		discard(fd, d, partial);
	cmd_progress_stop(p);
	smfs_dir_close(d);
	free(t);
	return r;
}

#define BASES_MAX 64
enum { OPT_BASE = 0x100 };

static int run(struct cmd *c, int argc, char **argv)
{
	static const struct option own[] = {{"base", required_argument, NULL, OPT_BASE}, {0}};
	cleanup_store struct smfs_store *s = NULL;
	struct err err = ERR_INIT;
	char *bases[BASES_MAX];
	size_t nbases = 0;
	struct smfs_name n;
	int status, o;

	while ((o = cmd_getopt(c, argc, argv, "", own, &status)) != -1) {
		if (o == CMD_EXIT)
			return status;
		if (nbases == BASES_MAX)
			return cmd_usage(c, "more than %d bases", BASES_MAX);
		bases[nbases++] = optarg;
	}
	if (argc - optind < 2)
		return cmd_usage(c, "too few arguments");
	const char *to = argv[argc - 1];
	if (bundle_target(to))
		return bundle_export(c, argv + optind, (size_t)(argc - optind - 1), bases, nbases,
				     to);
	if (argc - optind > 2 || nbases)
		return cmd_usage(c, "several names, and --base, are for a stream: - or FILE.smfs");
	if (cmd_open_store(c, SMFS_RDONLY, &s, &err) < 0 ||
	    cmd_find_name(s, argv[optind], &n, &err) < 0)
		return cmd_fail(&err);
	if (n.kind != SMFS_SNAPSHOT)
		return cmd_usage(c, "only snapshots become directories; export to - or FILE.smfs, "
				    "or copy from a mount");
	cmd_catch_signals();
	if (export(c, s, &n, to, &err) < 0)
		return cmd_interrupted ? (cmd_fail(&err), EXIT_INTERRUPTED) : cmd_fail(&err);
	return cmd_flush();
}

const struct command cmd_export = {
	.name = "export",
	.args = "[--base NAME]... NAME... -|FILE.smfs|DIR",
	.summary = "write names as a stream, or a snapshot as a directory",
	.help = "To - (standard output) or a new FILE.smfs: all that the names reach, as one "
		"stream that\n"
		"`smfs import` of any store takes and checks. To a new DIR: a snapshot's files, "
		"as\n"
		"`cp -r MNT/snapshots/NAME DIR` would; holes stay holes.\n\n"
		"  --base NAME    leave out what NAME reaches, too: the receiver has it\n",
	.run = run,
};
