/* smvm-runner ps, info: what runs. */
#include "runner/cmd/cmd.h"
#include "runner/control/control.h"
#include "runner/control/publish.h"
#include "runner/control/rundir.h"

#include "smfs/base/num.h"

#include <stdlib.h>
#include <time.h>

static json_t *info_json(const struct rundir *d)
{
	const struct vm_info *i = &d->info;

	json_t *j = json_pack("{s:s, s:s, s:i, s:I, s:i, s:I, s:s, s:s, s:s, s:I, s:s}", "id",
			      i->id, "name", i->name, "pid", (int)i->pid, "created_ns",
			      (json_int_t)i->created_ns, "vcpus", (int)i->vcpus, "ram_bytes",
			      (json_int_t)i->ram_bytes, "image", i->image, "snapshot", i->snapshot,
			      "parent", i->parent, "generation", (json_int_t)i->generation, "dir",
			      d->path);

	publish_add(j, i->forwards);
	if (i->saving[0])
		json_object_set_new(j, "saving",
				    json_pack("{s:s, s:s}", "name", i->saving, "state",
					      i->save_failed ? "failed" : "writing"));
	return j;
}

static const char *age(int64_t created_ns, char *buf, size_t n)
{
	int64_t s = time(NULL) - created_ns / 1000000000;

	if (s < 120)
		snprintf(buf, n, "%llds", (long long)MAX(s, 0));
	else if (s < 7200)
		snprintf(buf, n, "%lldm", (long long)(s / 60));
	else
		snprintf(buf, n, "%lldh", (long long)(s / 3600));
	return buf;
}

static void print_row(const struct rundir *d)
{
	char ram[SIZE_STR_MAX], since[32];
	const struct vm_info *i = &d->info;
	const char *how = i->parent[0] ? "fork of " : i->snapshot[0] ? "snapshot " : "";
	const char *from = i->parent[0] ? i->parent : i->snapshot[0] ? i->snapshot : i->image;

	printf("%-12s  %-20s  %7d  %5s  %4u  %8s  %s%s%s%s\n", i->id, i->name, (int)i->pid,
	       age(i->created_ns, since, sizeof(since)), i->vcpus, format_size(i->ram_bytes, ram),
	       how, from[0] ? from : "-",
	       !i->saving[0]	? ""
	       : i->save_failed ? "  FAILED to write "
				: "  writing ",
	       i->saving);
}

int cmd_ps(int argc, char **argv)
{
	static const struct option options[] = {{"json", no_argument, NULL, 'j'},
						{"quiet", no_argument, NULL, 'q'},
						{"help", no_argument, NULL, 'h'},
						{0}};
	bool json = false, quiet = false;
	struct err err = ERR_INIT;
	struct rundir **all;
	size_t n;
	int o;

	while ((o = getopt_long(argc, argv, "qh", options, NULL)) != -1) {
		switch (o) {
		case 'j':
			json = true;
			break;
		case 'q':
			quiet = true;
			break;
		case 'h':
			return help("Usage: smvm-runner ps [--json] [-q]\n"
				    "List running VMs. -q prints ids only.\n");
		default:
			return EXIT_USAGE;
		}
	}
	if (argc > optind)
		return usage_error("ps", "takes no arguments");
	if (rundir_list(&all, &n, &err) < 0)
		return fail(&err);
	json_t *list = json_array();
	if (!json && !quiet)
		printf("%-12s  %-20s  %7s  %5s  %4s  %8s  %s\n", "ID", "NAME", "PID", "AGE", "CPUS",
		       "MEMORY", "FROM");
	for (size_t i = 0; i < n; i++) {
		if (json)
			json_array_append_new(list, info_json(all[i]));
		else if (quiet)
			puts(all[i]->info.id);
		else
			print_row(all[i]);
		rundir_release(all[i]);
	}
	free(all);
	if (json)
		return print_json(list);
	json_decref(list);
	return EXIT_OK;
}

int cmd_info(int argc, char **argv)
{
	static const struct option options[] = {
		{"json", no_argument, NULL, 'j'}, {"help", no_argument, NULL, 'h'}, {0}};
	char path[RUNDIR_PATH_MAX];
	struct err err = ERR_INIT;
	struct rundir *d;
	json_t *reply;
	int o, r;

	while ((o = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		switch (o) {
		case 'j':
			break; /* the only form there is: JSON is what info prints */
		case 'h':
			return help(
				"Usage: smvm-runner info VM\n"
				"Print everything about a running VM as JSON: identity, devices,\n"
				"guest state, timings of its last restore.\n");
		default:
			return EXIT_USAGE;
		}
	}
	if (argc - optind != 1)
		return usage_error("info", "takes one VM");
	if (rundir_find(argv[optind], &d, &err) < 0)
		return fail(&err);
	json_t *j = info_json(d);
	r = control_call(rundir_file(d, "control.sock", path), json_pack("{s:s}", "op", "info"),
			 30000, &reply, NULL, &err);
	rundir_release(d);
	if (r < 0) {
		json_decref(j);
		return fail(&err);
	}
	json_object_del(reply, "ok");
	json_object_update(j, reply);
	json_decref(reply);
	return print_json(j);
}
