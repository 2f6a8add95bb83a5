#include "smfs/cmd/bundle.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "smfs/base/cleanup.h"
#include "smfs/base/num.h"

bool bundle_target(const char *arg)
{
	size_t n = strlen(arg);

	return strcmp(arg, "-") == 0 || (n > 5 && strcmp(arg + n - 5, ".smfs") == 0);
}

bool bundle_source(const char *arg)
{
	struct stat st;

	return strcmp(arg, "-") == 0 || (stat(arg, &st) == 0 && !S_ISDIR(st.st_mode));
}

static uint64_t bytes_done(void *arg)
{
	return *(_Atomic uint64_t *)arg;
}

static int tick(void *arg, const struct smfs_bundle_stat *so_far, struct err *err)
{
	*(_Atomic uint64_t *)arg = so_far->raw_bytes;
	return cmd_interrupted ? err_set(err, EINTR, "interrupted") : 0;
}

/* ---- export --------------------------------------------------------------------------------- */

static int find_all(struct smfs_store *s, char *const *args, size_t n, struct smfs_name **out,
		    struct err *err)
{
	int r = 0;

	*out = calloc(n + 1, sizeof(**out));
	if (!*out)
		return err_set(err, ENOMEM, "export: out of memory");
	for (size_t i = 0; i < n && r == 0; i++)
		r = cmd_find_name(s, args[i], &(*out)[i], err);
	return r;
}

/* A file gets its name when all of it is on disk. */
static int finish_file(int fd, const char *partial, const char *to, struct err *err)
{
	if (fsync(fd) < 0)
		return err_errno(err, "write %s", partial);
	if (renameat2(AT_FDCWD, partial, AT_FDCWD, to, RENAME_NOREPLACE) < 0)
		return err_errno(err, "export to %s", to);
	return 0;
}

static int to_file(struct smfs_store *s, const struct smfs_name *names, size_t n,
		   const struct smfs_name *bases, size_t nbases, const char *to,
		   const struct smfs_bundle_watch *watch, struct smfs_bundle_stat *st,
		   struct err *err)
{
	cleanup_free char *partial = NULL;

	if (access(to, F_OK) == 0)
		return err_set(err, EEXIST, "export to %s: it exists", to);
	if (asprintf(&partial, "%s.partial-%d", to, (int)getpid()) < 0) {
		partial = NULL;
		return err_set(err, ENOMEM, "export: out of memory");
	}
	/* As secret as the memory of the guests in it. */
	cleanup_fd int fd = open(partial, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return err_errno(err, "create %s", partial);
	int r = smfs_bundle_write(s, names, n, bases, nbases, fd, watch, st, err);
	if (r == 0)
		r = finish_file(fd, partial, to, err);
	if (r < 0)
		unlink(partial);
	return r;
}

static int export_done(struct cmd *c, const char *to, const struct smfs_bundle_stat *st)
{
	char size[SIZE_STR_MAX];

	if (strcmp(to, "-") == 0)
		return cmd_flush();
	if (c->json)
		return cmd_print_json(json_pack(
			"{s:s, s:I, s:I, s:I, s:I, s:I}", "file", to, "names",
			(json_int_t)st->names, "frames", (json_int_t)st->frames, "raw_bytes",
			(json_int_t)st->raw_bytes, "stored_bytes", (json_int_t)st->stored_bytes,
			"stream_bytes", (json_int_t)st->stream_bytes));
	if (!c->quiet)
		printf("%s: %s in %" PRIu64 " frames\n", to, format_size(st->stream_bytes, size),
		       st->frames);
	return cmd_flush();
}

int bundle_export(struct cmd *c, char *const *names, size_t n, char *const *bases, size_t nbases,
		  const char *to)
{
	cleanup_store struct smfs_store *s = NULL;
	cleanup_free struct smfs_name *v = NULL, *base = NULL;
	_Atomic uint64_t done = 0;
	const struct smfs_bundle_watch watch = {tick, &done};
	bool out = strcmp(to, "-") == 0;
	struct smfs_bundle_stat st;
	struct err err = ERR_INIT;
	uint64_t total = 0;
	int r;

	if (out && isatty(STDOUT_FILENO))
		return cmd_usage(c, "a stream is not for a terminal; redirect or pipe it");
	if (cmd_open_store(c, SMFS_RDONLY, &s, &err) < 0 || find_all(s, names, n, &v, &err) < 0 ||
	    find_all(s, bases, nbases, &base, &err) < 0)
		return cmd_fail(&err);
	for (size_t i = 0; i < n; i++)
		total += v[i].logical_bytes;
	cmd_catch_signals();
	struct cmd_progress *p = cmd_progress_start(c, "exporting", total, bytes_done, &done);
	if (out)
		r = smfs_bundle_write(s, v, n, base, nbases, STDOUT_FILENO, &watch, &st, &err);
	else
		r = to_file(s, v, n, base, nbases, to, &watch, &st, &err);
	cmd_progress_stop(p);
	if (r < 0)
		return cmd_interrupted ? (cmd_fail(&err), EXIT_INTERRUPTED) : cmd_fail(&err);
	return export_done(c, to, &st);
}

/* ---- import --------------------------------------------------------------------------------- */

int bundle_import(struct cmd *c, const char *as, const char *from)
{
	cleanup_store struct smfs_store *s = NULL;
	char size[SIZE_STR_MAX], fresh[SIZE_STR_MAX];
	_Atomic uint64_t done = 0;
	const struct smfs_bundle_watch watch = {tick, &done};
	bool in = strcmp(from, "-") == 0;
	struct smfs_bundle_stat st;
	struct err err = ERR_INIT;
	cleanup_fd int file = in ? -1 : open(from, O_RDONLY | O_CLOEXEC);

	if (!in && file < 0) {
		err_errno(&err, "import %s", from);
		return cmd_fail(&err);
	}
	if (in && isatty(STDIN_FILENO))
		return cmd_usage(c, "a stream does not come from a terminal; redirect or pipe it");
	if (cmd_open_store(c, SMFS_CMD_CREATE, &s, &err) < 0)
		return cmd_fail(&err);
	struct cmd_progress *p = cmd_progress_start(c, "importing", 0, bytes_done, &done);
	int r = smfs_bundle_read(s, in ? STDIN_FILENO : file, as, &watch, &st, &err);
	cmd_progress_stop(p);
	if (r < 0)
		return cmd_fail(&err);
	if (c->json)
		return cmd_print_json(json_pack(
			"{s:I, s:I, s:I, s:I, s:I, s:I}", "names", (json_int_t)st.names, "frames",
			(json_int_t)st.frames, "raw_bytes", (json_int_t)st.raw_bytes, "new_bytes",
			(json_int_t)st.new_bytes, "stored_bytes", (json_int_t)st.stored_bytes,
			"stream_bytes", (json_int_t)st.stream_bytes));
	if (!c->quiet)
		printf("%" PRIu64 " name%s: %s, of which new: %s\n", st.names,
		       st.names == 1 ? "" : "s", format_size(st.raw_bytes, size),
		       format_size(st.new_bytes, fresh));
	return cmd_flush();
}
