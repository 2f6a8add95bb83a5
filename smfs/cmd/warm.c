/*
 * warm.c - smfs warm: materialise the large files of a name, so that a mount lets the kernel serve
 * them; list, check and drop what is materialised.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "smfs/base/cleanup.h"
#include "smfs/base/num.h"
#include "smfs/cmd/cmd.h"
#include "smfs/mount/hot_cache.h"

struct warm {
	struct cmd *c;
	struct smfs_store *s;
	struct hot_cache *cache;
	_Atomic uint64_t done;
	uint64_t files, evicted, removed;
};

static void cleanup_cache(struct hot_cache **c)
{
	hot_cache_close(*c);
}

static bool go_on(void *arg, uint64_t done)
{
	((struct warm *)arg)->done = done;
	return !cmd_interrupted;
}

static uint64_t bytes_done(void *arg)
{
	return ((struct warm *)arg)->done;
}

/* Calls fn for each large file at the top of a name: `ram`, `rootfs.erofs`. */
static int each_file(struct warm *w, const struct smfs_name *n,
		     int (*fn)(struct warm *w, const struct smfs_name *n,
			       const struct smfs_entry *e, void *arg, struct err *err),
		     void *arg, struct err *err)
{
	struct smfs_dir *d;
	int r = smfs_dir_open(w->s, &n->root, &d, err);

	if (r < 0)
		return err_wrap(err, r, "%s/%s", cmd_kind(n->kind)->plural, n->name);
	for (size_t i = 0; r == 0 && i < smfs_dir_count(d); i++) {
		const struct smfs_entry *e = smfs_dir_at(d, i);

		if (S_ISREG(e->mode) && hot_cache_takes(&e->content))
			r = fn(w, n, e, arg, err);
	}
	smfs_dir_close(d);
	return r;
}

/* ---- make, drop ---------------------------------------------------------------------------- */

static int make_one(struct warm *w, const struct smfs_name *n, const struct smfs_entry *e,
		    void *arg, struct err *err)
{
	struct hot_progress p = {.go_on = go_on, .arg = w};
	struct cmd_progress *line =
		cmd_progress_start(w->c, e->name, e->content.size, bytes_done, w);
	int fd = hot_cache_make(w->cache, w->s, &e->content, &p, err);

	cmd_progress_stop(line);
	w->evicted += p.evicted;
	if (fd < 0)
		return err_wrap(err, fd, "warm %s: %s", n->name, e->name);
	close(fd);
	w->files++;
	return 0;
}

static int drop_one(struct warm *w, const struct smfs_name *n, const struct smfs_entry *e,
		    void *arg, struct err *err)
{
	int r = hot_cache_drop(w->cache, &e->content, err);

	w->files += r == 0;
	return r == -ENOENT ? 0 : r < 0 ? err_wrap(err, r, "%s: %s", n->name, e->name) : 0;
}

static int each_argument(struct warm *w, char **names, int n, bool drop, struct err *err)
{
	int r = 0;

	for (int i = 0; r == 0 && i < n; i++) {
		struct smfs_name name;
		uint64_t before = w->files;

		r = cmd_find_name(w->s, names[i], &name, err);
		if (r == 0)
			r = each_file(w, &name, drop ? drop_one : make_one, NULL, err);
		if (r == 0 && w->files == before)
			r = err_set(err, ENOENT,
				    drop ? "%s: nothing of it is materialised"
					 : "%s: it has no large file to materialise",
				    names[i]);
	}
	return r;
}

/* ---- list, check --------------------------------------------------------------------------- */

struct owner {
	struct hot_entry *v;
	size_t n;
	char **name; /* of v[i], or NULL: no name has it any more */
};

static int note_owner(struct warm *w, const struct smfs_name *n, const struct smfs_entry *e,
		      void *arg, struct err *err)
{
	struct owner *o = arg;

	for (size_t i = 0; i < o->n; i++) {
		const struct smfs_content *c = &o->v[i].content;

		if (o->name[i] || c->size != e->content.size ||
		    memcmp(&c->id, &e->content.id, SMFS_ID_LEN) != 0)
			continue;
		if (asprintf(&o->name[i], "%s/%s/%s", cmd_kind(n->kind)->plural, n->name, e->name) <
		    0) {
			o->name[i] = NULL;
			return err_set(err, ENOMEM, "list the cache: out of memory");
		}
	}
	return 0;
}

struct pass {
	struct warm *w;
	struct owner *o;
};

static int note_name(void *arg, const struct smfs_name *n, struct err *err)
{
	struct pass *p = arg;

	return each_file(p->w, n, note_owner, p->o, err);
}

static int find_owners(struct warm *w, struct owner *o, struct err *err)
{
	struct pass p = {w, o};
	int r = hot_cache_list(w->cache, &o->v, &o->n, err);

	if (r < 0)
		return r;
	o->name = calloc(o->n + 1, sizeof(*o->name));
	if (!o->name)
		return err_set(err, ENOMEM, "list the cache: out of memory");
	if (o->n)
		r = cmd_each_name(w->s, SMFS_SNAPSHOT, note_name, &p, err);
	if (r == 0 && o->n)
		r = cmd_each_name(w->s, SMFS_IMAGE, note_name, &p, err);
	return r;
}

static void free_owners(struct owner *o)
{
	for (size_t i = 0; o->name && i < o->n; i++)
		free(o->name[i]);
	free(o->name);
	free(o->v);
}

static int list(struct warm *w, struct err *err)
{
	cleanup_with(free_owners) struct owner o = {0};
	json_t *files = json_array();
	struct hot_cache_stat st = {0};
	int r = hot_cache_stat(w->cache, &st, err);

	if (r == 0)
		r = find_owners(w, &o, err);
	for (size_t i = 0; r == 0 && i < o.n; i++) {
		const struct hot_entry *e = &o.v[i];
		char hex[65], when[CMD_TIME_MAX], size[SIZE_STR_MAX];

		smfs_id_hex(&e->content.id, hex);
		if (w->c->json)
			json_array_append_new(files,
					      json_pack("{s:s, s:s?, s:I, s:I, s:I, s:b}", "digest",
							hex, "file", o.name[i], "size",
							(json_int_t)e->content.size, "disk_bytes",
							(json_int_t)e->bytes, "used_ns",
							(json_int_t)e->used, "in_use", e->in_use));
		else
			printf("%-40s %10s  %s%s\n", o.name[i] ? o.name[i] : "(of no name)",
			       format_size(e->bytes, size), cmd_time(e->used, when),
			       e->in_use ? "  in use" : "");
	}
	if (r == 0 && w->c->json)
		return cmd_print_json(json_pack("{s:I, s:I, s:o}", "limit_bytes",
						(json_int_t)MIN(st.limit, (uint64_t)INT64_MAX),
						"disk_bytes", (json_int_t)st.bytes, "files",
						files));
	json_decref(files);
	if (r < 0)
		return cmd_fail(err);
	if (!w->c->quiet) {
		char used[SIZE_STR_MAX], limit[SIZE_STR_MAX];

		printf("%s of %s\n", format_size(st.bytes, used), format_size(st.limit, limit));
	}
	return cmd_flush();
}

static int check(struct warm *w, struct err *err)
{
	cleanup_with(free_owners) struct owner o = {0};
	int r = find_owners(w, &o, err);

	for (size_t i = 0; r >= 0 && i < o.n && !cmd_interrupted; i++) {
		char hex[65];

		r = hot_cache_check(w->cache, w->s, &o.v[i].content, err);
		if (r != 1)
			continue;
		w->removed++;
		printf("cache of %s (%.12s): differs from the store, removed\n",
		       o.name[i] ? o.name[i] : "no name", smfs_id_hex(&o.v[i].content.id, hex));
	}
	if (r < 0 && r != -ENOENT)
		return cmd_fail(err);
	int status = cmd_flush();
	return status == EXIT_OK && w->removed ? EXIT_REFUSED : status;
}

/* ---- the command --------------------------------------------------------------------------- */

static int run(struct cmd *c, int argc, char **argv)
{
	static const struct option own[] = {{"drop", no_argument, NULL, 'd'},
					    {"list", no_argument, NULL, 'l'},
					    {"check", no_argument, NULL, 'k'},
					    {"cache-size", required_argument, NULL, 'S'},
					    {0}};
	cleanup_store struct smfs_store *s = NULL;
	cleanup_with(cleanup_cache) struct hot_cache *cache = NULL;
	struct err err = ERR_INIT;
	uint64_t limit = HOT_LIMIT_KEEP;
	int o, status, mode = 'm';

	while ((o = cmd_getopt(c, argc, argv, "", own, &status)) != -1) {
		if (o == CMD_EXIT)
			return status;
		if (o == 'S' && parse_size(optarg, 0, INT64_MAX, &limit, &err) < 0)
			return cmd_usage(c, "--cache-size: %s", err.msg);
		if (o != 'S' && mode != 'm' && mode != o)
			return cmd_usage(c, "--drop, --list and --check exclude each other");
		if (o != 'S')
			mode = o;
	}
	int names = argc - optind;
	if (mode == 'm' || mode == 'd') {
		if (names == 0 && (mode == 'd' || limit == HOT_LIMIT_KEEP))
			return cmd_usage(c, "too few arguments");
	} else if (names) {
		return cmd_usage(c, "too many arguments");
	}
	struct warm w = {.c = c};
	if (cmd_open_store(c, SMFS_RDONLY, &s, &err) < 0 ||
	    hot_cache_open(smfs_store_dir(s), 0, limit, &cache, &err) < 0)
		return cmd_fail(&err);
	w.s = s;
	w.cache = cache;
	cmd_catch_signals();
	if (mode == 'l')
		return list(&w, &err);
	if (mode == 'k')
		return check(&w, &err);
	if (each_argument(&w, argv + optind, names, mode == 'd', &err) < 0)
		return cmd_interrupted ? (cmd_fail(&err), EXIT_INTERRUPTED) : cmd_fail(&err);
	if (w.evicted && c->verbose)
		printf("%" PRIu64 " less recently used files made room\n", w.evicted);
	return cmd_flush();
}

const struct command cmd_warm = {
	.name = "warm",
	.args = "[OPTION...] [NAME...]",
	.summary = "keep a snapshot's memory ready as a plain file",
	.help = "Materialises the large files of the names (a snapshot's ram, an image's\n"
		"rootfs.erofs) in the store's cache, from which a mount lets the kernel serve "
		"them\n"
		"at page cache speed. A file that is open stays as it was opened.\n"
		"  --drop NAME...     remove them from the cache again\n"
		"  --list             what is in the cache\n"
		"  --check            compare the cache with the store; remove what differs "
		"(status 5)\n"
		"  --cache-size SIZE  how much the cache may take from now on, in every mount\n"
		"                     (first: a tenth of the file system, at most 8G)\n",
	.run = run,
};
