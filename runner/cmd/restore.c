/* smvm-runner restore: a machine from a snapshot. */
#include "runner/cmd/cmd.h"
#include "runner/control/launch.h"
#include "runner/control/where.h"

#include <stdio.h>

static const char usage[] =
	"Usage: smvm-runner restore [OPTIONS] SNAPSHOT\n"
	"Start a machine from SNAPSHOT: a name, or a directory with meta, ram and vcpu. Its RAM "
	"is\n"
	"mapped, not read; machines of one snapshot share it. Prints the VM's id once the guest "
	"has\n"
	"its own identity (hostname, machine-id, random seed, time) and runs.\n\n"
	"      --name NAME    how to call the VM (default: its id); becomes the guest's hostname\n"
	"  -f, --foreground   stay, with the serial console on standard input and output\n"
	"      --mount DIR    where the store is mounted ($SMFS_MOUNT, /mnt/smfs)\n"
	"      --json         print id, name, pid, directory and the time of each phase as JSON\n";

int cmd_restore(int argc, char **argv)
{
	static const struct option options[] = {
		{"name", required_argument, NULL, 'n'},	 {"foreground", no_argument, NULL, 'f'},
		{"mount", required_argument, NULL, 'm'}, {"json", no_argument, NULL, 'j'},
		{"help", no_argument, NULL, 'h'},	 {0}};
	const char *name = NULL, *mount = NULL;
	bool foreground = false, json = false;
	json_t *timings = NULL;
	struct err err = ERR_INIT;
	char dir[PATH_MAX];
	struct rundir *d;
	int o;

	while ((o = getopt_long(argc, argv, "fh", options, NULL)) != -1) {
		switch (o) {
		case 'n':
			name = optarg;
			if (rundir_name_check(name, &err) < 0)
				return usage_error("restore", "%s", err.msg);
			break;
		case 'f':
			foreground = true;
			break;
		case 'm':
			mount = optarg;
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
		return usage_error("restore", "takes one snapshot");
	struct vmm_restore r = {.mount = where_mount(mount), .snapshot_dir = dir};
	if (where_snapshot(r.mount, argv[optind], dir, &err) < 0)
		return fail(&err);
	if (foreground) {
		int code = foreground_restore(name, &r, &err);

		return err.code ? fail(&err) : code;
	}
	if (launch_restore(name, &r, &d, &timings, &err) < 0)
		return fail(&err);
	if (json)
		print_json(json_pack("{s:s, s:s, s:i, s:s, s:o*}", "id", d->info.id, "name",
				     d->info.name, "pid", (int)d->info.pid, "dir", d->path,
				     "timings", timings));
	else
		puts(d->info.id);
	rundir_release(d);
	return EXIT_OK;
}
