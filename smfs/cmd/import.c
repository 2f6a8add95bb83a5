/* import.c - smfs import: a directory becomes a snapshot, without a mount. */
#include "smfs/mount/import.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "smfs/base/cleanup.h"
#include "smfs/base/num.h"
#include "smfs/cmd/bundle.h"

struct source {
	struct snapshot_source files[SNAPSHOT_FILES_MAX];
	char names[SNAPSHOT_FILES_MAX][SMFS_NAME_MAX + 1];
	struct smfs_content bases[SNAPSHOT_FILES_MAX];
	size_t n;
	uint64_t bytes;
};

static void close_source(struct source *src)
{
	for (size_t i = 0; i < src->n; i++)
		close(src->files[i].fd);
}

static int add_file(struct source *src, int dirfd, const char *dir, const char *name,
		    struct err *err)
{
	struct stat st;

	cleanup_fd int fd = openat(dirfd, name, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0)
		return err_errno(err, "import %s/%s", dir, name);
	if (!S_ISREG(st.st_mode))
		return err_set(err, EINVAL,
			       "import %s/%s: not a regular file; a snapshot has nothing else", dir,
			       name);
	if (src->n == SNAPSHOT_FILES_MAX)
		return err_set(err, E2BIG, "import %s: more than %d files", dir,
			       SNAPSHOT_FILES_MAX);
	snprintf(src->names[src->n], sizeof(src->names[0]), "%s", name);
	src->files[src->n] =
		(struct snapshot_source){.name = src->names[src->n], .fd = steal_fd(&fd)};
	src->n++;
	src->bytes += (uint64_t)st.st_size;
	return 0;
}

static int open_source(struct source *src, const char *dir, struct err *err)
{
	cleanup_dir DIR *d = opendir(dir);
	struct dirent *e;
	int r = 0;

	if (!d)
		return err_errno(err, "import %s", dir);
	while (r == 0 && (e = readdir(d)))
		if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
			r = add_file(src, dirfd(d), dir, e->d_name, err);
	return r;
}

/* Each file of the name that is called as one of the source's is that one's base. */
static int find_bases(struct source *src, struct smfs_store *s, const char *base, struct err *err)
{
	struct smfs_name n;
	struct smfs_dir *d;
	int r = cmd_find_name(s, base, &n, err);

	if (r == 0)
		r = smfs_dir_open(s, &n.root, &d, err);
	if (r != 0)
		return r;
	for (size_t i = 0; i < src->n; i++) {
		const struct smfs_entry *e = smfs_dir_find(d, src->names[i]);

		if (!e || !S_ISREG(e->mode))
			continue;
		src->bases[i] = e->content;
		src->files[i].base = &src->bases[i];
	}
	smfs_dir_close(d);
	return 0;
}

static uint64_t bytes_in(void *arg)
{
	struct smfs_ingest_stat st;

	smfs_ingest_stat(arg, &st);
	return st.logical_bytes;
}

static int import(struct cmd *c, struct smfs_store *s, const char *name, struct source *src,
		  struct smfs_ingest_stat *st, struct err *err)
{
	struct smfs_ingest *ing;
	int r = smfs_ingest_begin(s, &ing, err);

	if (r < 0)
		return r;
	struct cmd_progress *p = cmd_progress_start(c, "importing", src->bytes, bytes_in, ing);
	r = snapshot_stage(ing, name, src->files, src->n, NULL, err);
	cmd_progress_stop(p);
	if (r < 0) {
		smfs_ingest_abort(ing);
		return r;
	}
	smfs_ingest_stat(ing, st);
	return smfs_ingest_commit(ing, err);
}

static int run(struct cmd *c, int argc, char **argv)
{
	cleanup_store struct smfs_store *s = NULL;
	char size[SIZE_STR_MAX], fresh[SIZE_STR_MAX];
	struct smfs_ingest_stat st = {0};
	struct smfs_name taken;
	struct source src = {0};
	struct err err = ERR_INIT;
	enum smfs_kind kind;
	static const struct option own[] = {{"base", required_argument, NULL, 'b'}, {0}};
	const char *name, *base = NULL;
	int opt, status, r;

	while ((opt = cmd_getopt(c, argc, argv, "", own, &status)) != -1) {
		if (opt == CMD_EXIT)
			return status;
		base = optarg;
	}
	if (argc - optind < 1 || argc - optind > 2)
		return cmd_usage(c, argc - optind < 1 ? "too few arguments" : "too many arguments");
	const char *dir = argv[argc - 1];
	if (base && bundle_source(dir))
		return cmd_usage(
			c, "a stream says itself what it builds on: --base is for a directory");
	if (bundle_source(dir))
		return bundle_import(c, argc - optind == 2 ? argv[optind] : NULL, dir);
	if (argc - optind < 2)
		return cmd_usage(c, "a directory needs a name: smfs import NAME DIR");
	if (cmd_spell_name(argv[optind], SMFS_SNAPSHOT, &kind, &name, &err) < 0)
		return cmd_fail(&err);
	if (kind != SMFS_SNAPSHOT)
		return cmd_usage(c, "only snapshots can be imported");
	if (cmd_open_store(c, SMFS_CMD_CREATE, &s, &err) < 0)
		return cmd_fail(&err);
	/* Also found by the commit, but then after the work. */
	r = smfs_name_get(s, SMFS_SNAPSHOT, name, &taken, &err);
	if (r == 0)
		r = err_set(&err, EEXIST, "import %s: a snapshot of that name exists", name);
	else if (r == -ENOENT)
		r = open_source(&src, dir, &err);
	if (r == 0 && base)
		r = find_bases(&src, s, base, &err);
	if (r == 0) {
		r = import(c, s, name, &src, &st, &err);
		if (r < 0)
			err_wrap(&err, r, "import %s", dir);
	}
	close_source(&src);
	if (r < 0)
		return cmd_fail(&err);
	if (c->json)
		return cmd_print_json(json_pack(
			"{s:s, s:I, s:I, s:I, s:I, s:I}", "name", name, "logical_bytes",
			(json_int_t)st.logical_bytes, "zero_bytes", (json_int_t)st.zero_bytes,
			"dup_bytes", (json_int_t)st.dup_bytes, "new_bytes",
			(json_int_t)st.new_bytes, "stored_bytes", (json_int_t)st.stored_bytes));
	if (!c->quiet)
		printf("snapshots/%s: %s, of which new: %s\n", name,
		       format_size(st.logical_bytes, size), format_size(st.new_bytes, fresh));
	return cmd_flush();
}

const struct command cmd_import = {
	.name = "import",
	.args = "[--base NAME] [NAME] -|FILE.smfs|DIR",
	.summary = "store names from a stream, or a directory as a snapshot",
	.help = "From - (standard input) or a file: a stream that `smfs export` made. All of it is "
		"checked,\n"
		"and nothing is visible before. NAME renames the only name in it. From a directory "
		"with\n"
		"meta, ram and vcpu: the same as `cp -r DIR MNT/snapshots/NAME`, without a "
		"mount.\n"
		"  --base NAME    a directory: store files as what they change, page by page, of "
		"the\n"
		"                 files of the same names in NAME\n",
	.run = run,
};
