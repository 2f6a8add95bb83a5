/* smvm-runner snapshot: a running VM's memory and state into the store. */
#include "runner/cmd/cmd.h"

#include "smfs/base/num.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define SNAPSHOT_WAIT_MS (3600 * 1000)

static const char usage[] =
	"Usage: smvm-runner snapshot [OPTIONS] VM NAME\n"
	"Store a snapshot of VM as snapshots/NAME. The VM pauses to copy its state; a copy-on-write image\n"
	"of its memory is written while it runs on. The snapshot appears complete or not at all.\n\n"
	"      --diff             store only what differs from an earlier snapshot of this VM: what it "
	"was\n"
	"                         restored from or, after a cold boot, the latest one. The snapshot is "
	"as\n"
	"                         whole as any. Without it, so where that is cheap\n"
	"      --base NAME        a diff of this snapshot; of another than that, all of RAM is compared\n"
	"      --full             store all of RAM\n"
	"      --still            pause until all is written: takes no memory for copies\n"
	"      --live             the opposite, which is the default\n"
	"      --no-wait          with --live: return as soon as the guest runs again; `info` tells when\n"
	"                         the snapshot is ready\n"
	"      --copy-limit SIZE  pause the guest again when it may have changed this much memory while it\n"
	"                         is written (default: half of what the host has available)\n"
	"      --no-agent         do not ask the guest's agent to freeze the workload first. A restored\n"
	"                         copy then runs for an instant before it learns that it is one\n"
	"      --json             print sizes and times as JSON\n";

static void print_result(const json_t *j)
{
	char ram[SIZE_STR_MAX], fresh[SIZE_STR_MAX], stored[SIZE_STR_MAX];

	if (strcmp(json_string_value(json_object_get(j, "state")), "writing") == 0) {
		printf("%s: being written; paused %.1f ms\n",
		       json_string_value(json_object_get(j, "name")),
		       (double)json_integer_value(json_object_get(j, "pause_us")) / 1000);
		return;
	}
	if (json_is_null(json_object_get(j, "new_bytes"))) {
		printf("%s: %s of RAM; ready, but its writer was killed before it told what it "
		       "took; paused %.1f ms\n",
		       json_string_value(json_object_get(j, "name")),
		       format_size((uint64_t)json_integer_value(json_object_get(j, "ram_bytes")),
				   ram),
		       (double)json_integer_value(json_object_get(j, "pause_us")) / 1000);
		return;
	}
	printf("%s: %s of RAM, %s new, stored in %s; paused %.1f ms\n",
	       json_string_value(json_object_get(j, "name")),
	       format_size((uint64_t)json_integer_value(json_object_get(j, "ram_bytes")), ram),
	       format_size((uint64_t)json_integer_value(json_object_get(j, "new_bytes")), fresh),
	       format_size((uint64_t)json_integer_value(json_object_get(j, "stored_bytes")),
			   stored),
	       (double)json_integer_value(json_object_get(j, "pause_us")) / 1000);
}

static const struct option options[] = {{"diff", no_argument, NULL, 'd'},
					{"base", required_argument, NULL, 'b'},
					{"full", no_argument, NULL, 'f'},
					{"live", no_argument, NULL, 'l'},
					{"no-wait", no_argument, NULL, 'w'},
					{"copy-limit", required_argument, NULL, 'c'},
					{"no-agent", no_argument, NULL, 'n'},
					{"json", no_argument, NULL, 'j'},
					{"still", no_argument, NULL, 's'},
					{"help", no_argument, NULL, 'h'},
					{0}};

struct snapshotting {
	const char *vm, *name, *base;
	bool diff, full, live, still, no_wait, no_agent, json;
	uint64_t copy_limit;
};

static int take(struct snapshotting *q, int o, struct err *err)
{
	switch (o) {
	case 'd':
		q->diff = true;
		return 0;
	case 'b':
		q->base = optarg;
		return 0;
	case 'f':
		q->full = true;
		return 0;
	case 'l':
		q->live = true;
		return 0;
	case 's':
		q->still = true;
		return 0;
	case 'w':
		q->no_wait = true;
		return 0;
	case 'c':
		return parse_size(optarg, MIB, TIB, &q->copy_limit, err) < 0
			       ? err_wrap(err, -EINVAL, "--copy-limit")
			       : 0;
	case 'n':
		q->no_agent = true;
		return 0;
	default:
		q->json = true;
		return 0;
	}
}

/* What the VM would refuse, too, but knows less to say of. */
static int consistent(const struct snapshotting *q, struct err *err)
{
	if (q->still && (q->live || q->copy_limit))
		return err_set(err, EINVAL, "--still and %s contradict each other",
			       q->live ? "--live" : "--copy-limit");
	if (!q->live && q->no_wait)
		return err_set(err, EINVAL, "--no-wait needs --live");
	if (q->full && (q->diff || q->base))
		return err_set(err, EINVAL, "--full and %s contradict each other",
			       q->diff ? "--diff" : "--base");
	if (q->base && strcmp(q->base, q->name) == 0)
		return err_set(err, EINVAL, "a snapshot cannot be its own base");
	return 0;
}

static int run(const struct snapshotting *q)
{
	struct err err = ERR_INIT;
	json_t *reply;
	int r;

	if (isatty(STDERR_FILENO))
		fprintf(stderr, "Writing snapshot %s ...\r", q->name);
	r = ask_vm(q->vm,
		   json_pack("{s:s, s:s, s:b, s:s*, s:b, s:b, s:b, s:b, s:I}", "op", "snapshot",
			     "name", q->name, "diff", q->diff, "base", q->base, "full", q->full,
			     "no_agent", q->no_agent, "still", q->still, "no_wait", q->no_wait,
			     "copy_limit", (json_int_t)q->copy_limit),
		   SNAPSHOT_WAIT_MS, &reply, &err);
	if (isatty(STDERR_FILENO))
		fputs("\033[K", stderr);
	if (r < 0)
		return fail(&err);
	if (q->json)
		return print_json(reply);
	print_result(reply);
	json_decref(reply);
	return EXIT_OK;
}

int cmd_snapshot(int argc, char **argv)
{
	struct snapshotting q = {.vm = NULL};
	struct err err = ERR_INIT;
	int o;

	while ((o = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		if (o == '?')
			return EXIT_USAGE;
		if (o == 'h')
			return help(usage);
		if (take(&q, o, &err) < 0)
			return usage_error("snapshot", "%s", err.msg);
	}
	if (argc - optind != 2)
		return usage_error("snapshot", "takes a VM and a name");
	q.vm = argv[optind];
	q.name = argv[optind + 1];
	if (consistent(&q, &err) < 0)
		return usage_error("snapshot", "%s", err.msg);
	return run(&q);
}
