/* stats.c - smfs stats: the store's numbers for monitoring, without a mount. */
#include <inttypes.h>

#include "smfs/cmd/cmd.h"
#include "smfs/store/metrics.h"

enum { OPT_PROMETHEUS = 0x100 };

static json_t *as_json(const struct metric *v, size_t n)
{
	json_t *j = json_object();

	for (size_t i = 0; i < n; i++)
		json_object_set_new(j, v[i].name, json_integer((json_int_t)v[i].value));
	return j;
}

static int run(struct cmd *c, int argc, char **argv)
{
	static const struct option own[] = {{"prometheus", no_argument, NULL, OPT_PROMETHEUS}, {0}};
	cleanup_store struct smfs_store *s = NULL;
	struct metric v[STORE_METRICS_MAX];
	struct smfs_store_stat st;
	struct err err = ERR_INIT;
	bool prometheus = false;
	int status, o;

	while ((o = cmd_getopt(c, argc, argv, "", own, &status)) != -1) {
		if (o == CMD_EXIT)
			return status;
		prometheus = true;
	}
	if (optind < argc)
		return cmd_usage(c, "too many arguments");
	if (prometheus && c->json)
		return cmd_usage(c, "either --prometheus or --json");
	if (cmd_open_store(c, SMFS_RDONLY, &s, &err) < 0 || smfs_store_stat(s, &st, &err) < 0)
		return cmd_fail(&err);
	size_t n = store_metrics(&st, v);
	if (c->json)
		return cmd_print_json(as_json(v, n));
	if (prometheus)
		metric_print_build(stdout);
	for (size_t i = 0; i < n; i++) {
		if (prometheus)
			metric_print(stdout, &v[i]);
		else
			printf("%-14s %20" PRIu64 "  %s\n", v[i].name, v[i].value, v[i].help);
	}
	return cmd_flush();
}

const struct command cmd_stats = {
	.name = "stats",
	.args = "[--prometheus]",
	.summary = "print the store's numbers for monitoring",
	.help = "The names are those of MNT/.smfs/stats, which has the mount's own, too.\n\n"
		"  --prometheus   in Prometheus's text format\n",
	.run = run,
};
