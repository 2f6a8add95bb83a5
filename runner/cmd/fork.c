/* smvm-runner fork: children of a running VM. */
#include "runner/control/fork.h"
#include "runner/cmd/cmd.h"
#include "runner/control/control.h"
#include "runner/control/rundir.h"
#include "runner/snapshot/clock_policy.h"

#include "smfs/base/num.h"

#include <stdio.h>

#define FORK_WAIT_MS (300 * 1000)

static const char usage[] =
	"Usage: smvm-runner fork [OPTIONS] VM\n"
	"Start copies of a running VM as it is now, over the same memory, copy on write. VM pauses for\n"
	"some milliseconds, once. Prints the children's ids once each guest has its own identity\n"
	"(hostname, machine-id, random seed, time) and runs.\n\n"
	"  -n, --number N   how many (1)\n"
	"      --name NAME  how to call the child (default: its id); of several NAME-1, NAME-2 ...\n"
	"      --no-agent   do not ask the guest's agent to freeze the workload first\n"
	"      --clock POLICY  advance (default) or freeze: see restore\n"
	"      --json       print each child's id, name, pid, directory and times as JSON\n";

int cmd_fork(int argc, char **argv)
{
	static const struct option options[] = {{"number", required_argument, NULL, 'n'},
						{"name", required_argument, NULL, 'N'},
						{"no-agent", no_argument, NULL, 'a'},
						{"clock", required_argument, NULL, 'c'},
						{"json", no_argument, NULL, 'j'},
						{"help", no_argument, NULL, 'h'},
						{0}};
	bool no_agent = false, json = false;
	char path[RUNDIR_PATH_MAX];
	const char *name = NULL;
	struct err err = ERR_INIT;
	struct rundir *d;
	uint64_t n = 1;
	json_t *reply, *child;
	size_t i;
	int clock = CLOCK_ADVANCE, o, r;

	while ((o = getopt_long(argc, argv, "n:h", options, NULL)) != -1) {
		switch (o) {
		case 'n':
			if (parse_u64(optarg, 1, FORK_MAX, &n, &err) < 0)
				return usage_error("fork", "-n: %s", err.msg);
			break;
		case 'N':
			name = optarg;
			if (rundir_name_check(name, &err) < 0)
				return usage_error("fork", "%s", err.msg);
			break;
		case 'a':
			no_agent = true;
			break;
		case 'c':
			clock = clock_policy_of(optarg);
			if (clock < 0)
				return usage_error("fork", "--clock is advance or freeze");
			break;
		case 'j':
			json = true;
			break;
		case 'h':
			return help(usage);
		default:
			return EXIT_USAGE;
		}
	}
	if (argc - optind != 1)
		return usage_error("fork", "takes one VM");
	if (rundir_find(argv[optind], &d, &err) < 0)
		return fail(&err);
	r = control_call(rundir_file(d, "control.sock", path),
			 json_pack("{s:s, s:I, s:s*, s:b, s:s}", "op", "fork", "n", (json_int_t)n,
				   "name", name, "no_agent", no_agent, "clock",
				   clock_policy_name(clock)),
			 FORK_WAIT_MS, &reply, NULL, &err);
	rundir_release(d);
	if (r < 0)
		return fail(&err);
	json_object_del(reply, "ok");
	const char *failed = json_string_value(json_object_get(reply, "error"));
	if (failed)
		fprintf(stderr, "smvm-runner: fork %s: %s\n", argv[optind], failed);
	r = failed ? EXIT_FAILED : EXIT_OK;
	if (json) {
		print_json(reply);
		return r;
	}
	json_array_foreach(json_object_get(reply, "children"), i, child)
	{
		puts(json_string_value(json_object_get(child, "id")));
		print_results(json_string_value(json_object_get(child, "name")),
			      json_object_get(child, "timings"));
	}
	json_decref(reply);
	return r;
}
