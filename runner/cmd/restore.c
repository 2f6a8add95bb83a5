/* smvm-runner restore: a machine from a snapshot. */
#include "runner/cmd/cmd.h"
#include "runner/control/launch.h"
#include "runner/control/publish.h"
#include "runner/control/where.h"

#include "smfs/base/num.h"

#include <stdio.h>
#include <stdlib.h>

#define RESTORE_MAX 1000

static const char usage[] =
	"Usage: smvm-runner restore [OPTIONS] SNAPSHOT\n"
	"Start a machine from SNAPSHOT: a name, or a directory with meta, ram and vcpu. Its RAM is\n"
	"mapped, not read; machines of one snapshot share it. Prints the VM's id once the guest has\n"
	"its own identity (hostname, machine-id, random seed, time) and runs.\n\n"
	"  -n, --number N     how many machines (1), started at once\n"
	"      --name NAME    how to call the VM (default: its id); becomes the guest's hostname.\n"
	"                     Of several: NAME-1, NAME-2 ...\n"
	"  -f, --foreground   stay, with the serial console on standard input and output\n"
	"      --clock POLICY advance (default): the guest's wall clock is set to the host's; freeze: it\n"
	"                     goes on from where the snapshot stopped it\n"
	"  -p, --publish [[ADDRESS:]PORT:]TARGET\n"
	"                     PORT of this host (0 or none: any, as it must be for several machines) leads to\n"
	"                     TARGET, a port or Unix socket of the guest (repeatable)\n"
	"      --prefault WHAT  map RAM in the background once the guest runs: its working set, if\n"
	"                     the snapshot has one (ws, the default), all data (all), or none\n"
	"      --mount DIR    where the store is mounted ($SMFS_MOUNT, /mnt/smfs)\n"
	"      --json         print id, name, pid, directory and the time of each phase as JSON\n";

static json_t *launched_json(const struct launched *l)
{
	const struct vm_info *i = &l->dir->info;

	json_t *j = json_pack("{s:s, s:s, s:i, s:s, s:O*}", "id", i->id, "name", i->name, "pid",
			      (int)i->pid, "dir", l->dir->path, "timings", l->timings);

	if (j)
		publish_add(j, i->forwards);
	return j;
}

/* One machine's JSON is an object, that of several an array. */
static int restore_many(const char *name, unsigned n, const struct vmm_restore *r, bool json)
{
	struct launched *l = calloc(n, sizeof(*l));
	struct err err = ERR_INIT;

	if (!l) {
		err_set(&err, ENOMEM, "restore: out of memory");
		return fail(&err);
	}
	unsigned up = launch_restores(name, n, r, l, &err);
	json_t *list = json && n > 1 ? json_array() : NULL;
	for (unsigned i = 0; i < up; i++) {
		if (list)
			json_array_append_new(list, launched_json(&l[i]));
		else if (json)
			print_json(launched_json(&l[i]));
		else
			puts(l[i].dir->info.id);
		if (!json)
			print_results(l[i].dir->info.name, l[i].timings);
		rundir_release(l[i].dir);
		json_decref(l[i].timings);
	}
	free(l);
	if (list)
		print_json(list);
	return up == n ? EXIT_OK : fail(&err);
}

static const struct option options[] = {
	{"number", required_argument, NULL, 'n'},   {"name", required_argument, NULL, 'N'},
	{"prefault", required_argument, NULL, 'P'}, {"publish", required_argument, NULL, 'p'},
	{"foreground", no_argument, NULL, 'f'},	    {"clock", required_argument, NULL, 'c'},
	{"mount", required_argument, NULL, 'm'},    {"json", no_argument, NULL, 'j'},
	{"help", no_argument, NULL, 'h'},	    {0}};

struct restoring {
	const char *name, *mount;
	bool foreground, json;
	uint64_t n;
	struct forward forward[FORWARD_MAX];
	unsigned nforwards;
	enum prefault_policy prefault;
	enum clock_policy clock;
};

static int take_clock(struct restoring *q, const char *text, struct err *err)
{
	const int clock = clock_policy_of(text);

	if (clock < 0)
		return err_set(err, EINVAL, "--clock is advance or freeze");
	q->clock = (enum clock_policy)clock;
	return 0;
}

static int take(struct restoring *q, int o, struct err *err)
{
	switch (o) {
	case 'n':
		return parse_u64(optarg, 1, RESTORE_MAX, &q->n, err) < 0
			       ? err_wrap(err, -EINVAL, "-n")
			       : 0;
	case 'N':
		q->name = optarg;
		return rundir_name_check(q->name, err);
	case 'p':
		return forward_add(optarg, q->forward, &q->nforwards, err) < 0
			       ? err_wrap(err, -EINVAL, "--publish")
			       : 0;
	case 'P':
		return prefault_policy_of(optarg, &q->prefault)
			       ? 0
			       : err_set(err, EINVAL, "--prefault: none, ws or all");
	case 'f':
		q->foreground = true;
		return 0;
	case 'm':
		q->mount = optarg;
		return 0;
	case 'c':
		return take_clock(q, optarg, err);
	default:
		q->json = true;
		return 0;
	}
}

static int run(const struct restoring *q, const char *snapshot)
{
	struct err err = ERR_INIT;
	char dir[PATH_MAX];
	const struct vmm_restore r = {.mount = where_mount(q->mount),
				      .snapshot_dir = dir,
				      .clock = q->clock,
				      .prefault = q->prefault,
				      .forward = q->forward,
				      .nforwards = q->nforwards};

	if (where_snapshot(r.mount, snapshot, dir, &err) < 0)
		return fail(&err);
	if (!q->foreground)
		return restore_many(q->name, (unsigned)q->n, &r, q->json);
	const int code = foreground_restore(q->name, &r, &err);
	return err.code ? fail(&err) : code;
}

int cmd_restore(int argc, char **argv)
{
	struct restoring q = {.n = 1, .prefault = PREFAULT_WS, .clock = CLOCK_ADVANCE};
	struct err err = ERR_INIT;
	int o;

	while ((o = getopt_long(argc, argv, "n:fp:h", options, NULL)) != -1) {
		if (o == '?')
			return EXIT_USAGE;
		if (o == 'h')
			return help(usage);
		if (take(&q, o, &err) < 0)
			return usage_error("restore", "%s", err.msg);
	}
	if (argc - optind != 1)
		return usage_error("restore", "takes one snapshot");
	if (publish_check(q.forward, q.nforwards, q.n, &err) < 0)
		return usage_error("restore", "--publish: %s", err.msg);
	if (q.foreground && q.n > 1)
		return usage_error("restore", "--foreground is for one machine");
	return run(&q, argv[optind]);
}
