/* diff.c - smfs diff: what changed from one snapshot, image or layer to another. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "smfs/base/cleanup.h"
#include "smfs/base/num.h"
#include "smfs/cmd/cmd.h"

#define DEPTH_MAX 4096

struct diff {
	struct cmd *c;
	struct smfs_store *s;
	bool ranges;
	json_t *files;	      /* NULL: print */
	char path[DEPTH_MAX]; /* of the directory at hand, with a slash at its end, or empty */
	uint64_t files_differ, bytes;
	uint64_t in_file, nranges; /* of the file at hand */
	json_t *file_ranges;
};

static void say(struct diff *d, const char *change, const char *name, const struct smfs_entry *a,
		const struct smfs_entry *b, json_t *more)
{
	char size[SIZE_STR_MAX];

	d->files_differ++;
	if (d->files) {
		json_t *o = json_pack("{s:s+, s:s}", "path", d->path, name, "change", change);

		if (a && S_ISREG(a->mode))
			json_object_set_new(o, "size_a", json_integer((json_int_t)a->content.size));
		if (b && S_ISREG(b->mode))
			json_object_set_new(o, "size_b", json_integer((json_int_t)b->content.size));
		if (more)
			json_object_update(o, more);
		json_array_append_new(d->files, o);
		json_decref(more);
		return;
	}
	if (strcmp(change, "content") == 0)
		printf("%-8s %s%s: %s in %" PRIu64 " range%s\n", change, d->path, name,
		       format_size(d->in_file, size), d->nranges, d->nranges == 1 ? "" : "s");
	else
		printf("%-8s %s%s\n", change, d->path, name);
}

static int on_range(void *arg, uint64_t off, uint64_t len, struct err *err)
{
	struct diff *d = arg;

	d->in_file += len;
	d->nranges++;
	if (!d->ranges)
		return 0;
	if (d->file_ranges)
		json_array_append_new(d->file_ranges,
				      json_pack("[I, I]", (json_int_t)off, (json_int_t)len));
	else
		printf("  %" PRIu64 " %" PRIu64 "\n", off, len);
	return 0;
}

static int diff_content(struct diff *d, const struct smfs_entry *a, const struct smfs_entry *b,
			struct err *err)
{
	json_t *more = NULL;

	d->in_file = d->nranges = 0;
	d->file_ranges = d->files && d->ranges ? json_array() : NULL;
	int r = smfs_content_diff(d->s, &a->content, &b->content, 0, on_range, d, err);
	if (r < 0) {
		json_decref(d->file_ranges);
		return err_wrap(err, r, "%s%s", d->path, a->name);
	}
	if (d->nranges == 0 && a->content.size == b->content.size) {
		json_decref(d->file_ranges);
		return 0;
	}
	d->bytes += d->in_file;
	if (d->files)
		more = json_pack("{s:I, s:I, s:o*}", "changed_bytes", (json_int_t)d->in_file,
				 "nranges", (json_int_t)d->nranges, "ranges", d->file_ranges);
	say(d, "content", a->name, a, b, more);
	return 0;
}

static bool same_attributes(const struct smfs_entry *a, const struct smfs_entry *b)
{
	return a->mode == b->mode && a->uid == b->uid && a->gid == b->gid;
}

static int diff_dirs(struct diff *d, const struct smfs_id *a, const struct smfs_id *b,
		     struct err *err);

static int diff_entries(struct diff *d, const struct smfs_entry *a, const struct smfs_entry *b,
			struct err *err)
{
	size_t len = strlen(d->path);
	int r;

	if ((a->mode & S_IFMT) != (b->mode & S_IFMT)) {
		say(d, "type", a->name, a, b, NULL);
		return 0;
	}
	if (!same_attributes(a, b))
		say(d, "mode", a->name, a, b, NULL);
	if (S_ISREG(a->mode))
		return diff_content(d, a, b, err);
	if (S_ISLNK(a->mode) && strcmp(a->target, b->target) != 0)
		say(d, "link", a->name, a, b, NULL);
	if ((S_ISCHR(a->mode) || S_ISBLK(a->mode)) &&
	    (a->rdev_major != b->rdev_major || a->rdev_minor != b->rdev_minor))
		say(d, "device", a->name, a, b, NULL);
	if (!S_ISDIR(a->mode) || memcmp(&a->dir, &b->dir, sizeof(a->dir)) == 0)
		return 0;
	/* The path bounds the nesting, too. */
	if (len + strlen(a->name) + 2 > sizeof(d->path))
		return err_set(err, ENAMETOOLONG, "%.60s...: nested too deep to compare", d->path);
	sprintf(d->path + len, "%s/", a->name);
	r = diff_dirs(d, &a->dir, &b->dir, err);
	d->path[len] = '\0';
	return r;
}

static int diff_open(struct diff *d, struct smfs_dir *a, struct smfs_dir *b, struct err *err)
{
	size_t i = 0, k = 0;
	int r = 0;

	while (r == 0 && (i < smfs_dir_count(a) || k < smfs_dir_count(b))) {
		const struct smfs_entry *x = i < smfs_dir_count(a) ? smfs_dir_at(a, i) : NULL;
		const struct smfs_entry *y = k < smfs_dir_count(b) ? smfs_dir_at(b, k) : NULL;
		int order = !x ? 1 : !y ? -1 : strcmp(x->name, y->name);

		i += order <= 0;
		k += order >= 0;
		if (x && order < 0)
			say(d, "removed", x->name, x, NULL, NULL);
		else if (y && order > 0)
			say(d, "added", y->name, NULL, y, NULL);
		else if (x && y)
			r = diff_entries(d, x, y, err);
	}
	return r;
}

static int diff_dirs(struct diff *d, const struct smfs_id *a, const struct smfs_id *b,
		     struct err *err)
{
	struct smfs_dir *x, *y;
	int r = smfs_dir_open(d->s, a, &x, err);

	if (r < 0)
		return r;
	r = smfs_dir_open(d->s, b, &y, err);
	if (r == 0) {
		r = diff_open(d, x, y, err);
		smfs_dir_close(y);
	}
	smfs_dir_close(x);
	return r;
}

static int compare(struct diff *d, const struct smfs_name *a, const struct smfs_name *b)
{
	struct err err = ERR_INIT;
	char size[SIZE_STR_MAX];

	if (memcmp(&a->root, &b->root, sizeof(a->root)) != 0 &&
	    diff_dirs(d, &a->root, &b->root, &err) < 0) {
		json_decref(d->files);
		return cmd_fail(&err);
	}
	if (d->files)
		return cmd_print_json(json_pack("{s:s, s:s, s:I, s:o}", "a", a->name, "b", b->name,
						"changed_bytes", (json_int_t)d->bytes, "files",
						d->files));
	if (!d->c->quiet)
		printf("%" PRIu64 " file%s differ%s; %s of content\n", d->files_differ,
		       d->files_differ == 1 ? "" : "s", d->files_differ == 1 ? "s" : "",
		       format_size(d->bytes, size));
	return cmd_flush();
}

static int run(struct cmd *c, int argc, char **argv)
{
	enum { OPT_RANGES = 256 };
	static const struct option own[] = {{"ranges", no_argument, NULL, OPT_RANGES}, {0}};
	cleanup_store struct smfs_store *s = NULL;
	cleanup_free struct diff *d = calloc(1, sizeof(*d));
	struct err err = ERR_INIT;
	struct smfs_name a, b;
	int opt, status;

	if (!d) {
		err_set(&err, ENOMEM, "diff: out of memory");
		return cmd_fail(&err);
	}
	while ((opt = cmd_getopt(c, argc, argv, "", own, &status)) != -1) {
		if (opt == CMD_EXIT)
			return status;
		d->ranges = true;
	}
	if (argc - optind != 2)
		return cmd_usage(c, "two names are needed");
	if (cmd_open_store(c, SMFS_RDONLY, &s, &err) < 0 ||
	    cmd_find_name(s, argv[optind], &a, &err) < 0 ||
	    cmd_find_name(s, argv[optind + 1], &b, &err) < 0)
		return cmd_fail(&err);
	d->c = c;
	d->s = s;
	d->files = c->json ? json_array() : NULL;
	return compare(d, &a, &b);
}

const struct command cmd_diff = {
	.name = "diff",
	.args = "[--ranges] A B",
	.summary = "show what changed from A to B: files, bytes, ranges",
	.help = "One line for each file that is added or removed, or differs in type, mode, link, "
		"device\n"
		"or content. Content is compared in pages of 4 KiB; what the two share in the "
		"store is\n"
		"not read.\n"
		"  --ranges       print each changed range: offset and length in bytes\n",
	.run = run,
};
