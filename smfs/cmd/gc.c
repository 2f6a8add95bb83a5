/* gc.c - smfs gc: free what nothing refers to. */
#include <inttypes.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "smfs/base/num.h"
#include "smfs/base/progress.h"
#include "smfs/cmd/cmd.h"

/* How far it is, for the thread that draws. */
struct job {
	struct smfs_gc g;
	atomic_uint_fast64_t marked, condemned, copied;
};

/* Called often by the collection: what it has counted is its own to read. */
static bool stop(void *arg)
{
	struct job *j = arg;

	atomic_store_explicit(&j->marked, j->g.marked, memory_order_relaxed);
	atomic_store_explicit(&j->condemned, j->g.condemned_bytes, memory_order_relaxed);
	atomic_store_explicit(&j->copied, j->g.copied_bytes, memory_order_relaxed);
	return cmd_interrupted;
}

static void draw(void *arg, char line[PROGRESS_LINE_MAX])
{
	struct job *j = arg;
	char unused[SIZE_STR_MAX], copied[SIZE_STR_MAX];

	format_size(atomic_load(&j->condemned), unused);
	format_size(atomic_load(&j->copied), copied);
	snprintf(line, PROGRESS_LINE_MAX,
		 "collecting garbage: %" PRIu64 " references followed, %s unused, %s moved",
		 (uint64_t)atomic_load(&j->marked), unused, copied);
}

static json_t *result_json(const struct smfs_gc *g, bool dry)
{
	const struct {
		const char *key;
		uint64_t value;
	} v[] = {
		{"names", g->names},
		{"leased_roots", g->leased_roots},
		{"lease_holders", g->holders},
		{"marked", g->marked},
		{"mark_us", g->mark_us},
		{"live_frames", g->live_frames},
		{"live_bytes", g->live_bytes},
		{"condemned_frames", g->condemned_frames},
		{"condemned_bytes", g->condemned_bytes},
		{"freed_frames", g->freed_frames},
		{"freed_bytes", g->freed_bytes},
		{"waiting_frames", g->waiting_frames},
		{"waiting_bytes", g->waiting_bytes},
		{"packs", g->packs},
		{"packs_removed", g->packs_removed},
		{"packs_compacted", g->packs_compacted},
		{"packs_busy", g->packs_busy},
		{"packs_damaged", g->packs_damaged},
		{"copied_bytes", g->copied_bytes},
		{"returned_bytes", g->returned_bytes},
		{"dead_bytes", g->dead_bytes},
		{"longest_update_us", g->longest_update_us},
	};
	json_t *j = json_pack("{s:b}", "dry_run", dry);

	for (size_t i = 0; j && i < ARRAY_SIZE(v); i++)
		json_object_set_new(j, v[i].key, json_integer((json_int_t)v[i].value));
	return j;
}

static void result_text(const struct smfs_gc *g, bool dry)
{
	char freed[SIZE_STR_MAX], back[SIZE_STR_MAX], buf[SIZE_STR_MAX];

	printf("%s: %" PRIu64 " frames, %s; %s of disk %s; %" PRIu64 " packs removed, %" PRIu64
	       " compacted\n",
	       dry ? "would free" : "freed", g->freed_frames, format_size(g->freed_bytes, freed),
	       format_size(g->returned_bytes, back), dry ? "would come back" : "came back",
	       g->packs_removed, g->packs_compacted);
	if (g->waiting_frames)
		printf("%" PRIu64 " frames, %s, wait for programs that began before: %" PRIu64
		       " hold leases\n",
		       g->waiting_frames, format_size(g->waiting_bytes, buf), g->holders);
	if (g->packs_busy)
		printf("%" PRIu64 " packs are being written to and were left alone\n",
		       g->packs_busy);
	if (g->packs_damaged)
		printf("%" PRIu64
		       " packs have damaged frames that are needed and stay as they are; "
		       "`smfs fsck` tells which\n",
		       g->packs_damaged);
	if (g->dead_bytes)
		printf("%s unused in packs that are mostly in use\n",
		       format_size(g->dead_bytes, buf));
}

static int parse(struct cmd *c, int argc, char **argv, struct smfs_gc *g, unsigned *flags,
		 int *status)
{
	static const struct option own[] = {{"dry-run", no_argument, NULL, 'n'},
					    {"compact", required_argument, NULL, 'c'},
					    {0}};
	uint64_t percent;
	int o;

	while ((o = cmd_getopt(c, argc, argv, "n", own, status)) != -1) {
		if (o == CMD_EXIT)
			return CMD_EXIT;
		if (o == 'n') {
			*flags |= SMFS_GC_DRY_RUN;
		} else if (parse_u64(optarg, 1, 101, &percent, NULL) < 0) {
			*status = cmd_usage(c, "--compact: a per cent from 1 to 101");
			return CMD_EXIT;
		} else {
			g->compact_percent = (unsigned)percent;
		}
	}
	if (optind == argc)
		return 0;
	*status = cmd_usage(c, "too many arguments");
	return CMD_EXIT;
}

static int run(struct cmd *c, int argc, char **argv)
{
	struct job j = {.g = {.compact_percent = SMFS_GC_COMPACT_DEFAULT, .stop = stop}};
	cleanup_store struct smfs_store *s = NULL;
	struct err err = ERR_INIT;
	unsigned flags = 0;
	int status;

	if (parse(c, argc, argv, &j.g, &flags, &status) == CMD_EXIT)
		return status;
	bool dry = flags & SMFS_GC_DRY_RUN;
	if (cmd_open_store(c, dry ? SMFS_RDONLY : 0, &s, &err) < 0)
		return cmd_fail(&err);
	cmd_catch_signals();
	j.g.arg = &j;
	struct progress *p = progress_start(c->quiet, 1000, draw, &j);
	int r = smfs_gc(s, flags, &j.g, &err);
	progress_stop(p);
	if (r < 0)
		return cmd_fail(&err);
	if (c->json)
		return cmd_print_json(result_json(&j.g, dry));
	if (!c->quiet)
		result_text(&j.g, dry);
	return cmd_flush();
}

const struct command cmd_gc = {
	.name = "gc",
	.args = "[--dry-run] [--compact PERCENT]",
	.summary = "free what nothing refers to",
	.help = "Frees what no name, no mount and no program at work needs, beside all of them.\n"
		"  -n, --dry-run        say what would be freed, change nothing\n"
		"  --compact PERCENT    rewrite packs of which this much is unused (default 25;\n"
		"                       101: none)\n",
	.run = run,
};
