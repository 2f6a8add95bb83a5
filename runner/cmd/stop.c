/* smvm-runner stop: end VMs, in order or at once. */
#include "runner/cmd/cmd.h"
#include "runner/control/control.h"
#include "runner/control/rundir.h"

#include "smfs/base/num.h"

#include <stdio.h>

static int stop_one(const char *what, bool force, uint64_t grace_s, struct err *err)
{
	char path[RUNDIR_PATH_MAX];
	struct rundir *d;
	int r = rundir_find(what, &d, err);

	if (r < 0)
		return r;
	r = control_stop(rundir_file(d, "control.sock", path), d->info.pid, force,
			 force ? 0 : (int)grace_s * 1000, err);
	rundir_release(d);
	return r;
}

int cmd_stop(int argc, char **argv)
{
	static const struct option options[] = {{"force", no_argument, NULL, 'f'},
						{"time", required_argument, NULL, 't'},
						{"timeout", required_argument, NULL, 't'},
						{"help", no_argument, NULL, 'h'},
						{0}};
	uint64_t grace_s = 10;
	struct err err = ERR_INIT;
	bool force = false;
	int o, code = EXIT_OK;

	while ((o = getopt_long(argc, argv, "ft:h", options, NULL)) != -1) {
		switch (o) {
		case 'f':
			force = true;
			break;
		case 't':
			if (parse_u64(optarg, 0, 3600, &grace_s, &err) < 0)
				return usage_error("stop", "--time: %s", err.msg);
			break;
		case 'h':
			return help("Usage: smvm-runner stop [-f] [-t SECONDS] VM...\n"
				    "SIGTERM to the entrypoint and, once that has ended, to all "
				    "others; what is left\n"
				    "after SECONDS (10) is killed, and the guest powers off.\n"
				    "  -f, --force             end it at once\n"
				    "  -t, --timeout SECONDS   how long the guest may take\n");
		default:
			return EXIT_USAGE;
		}
	}
	if (optind == argc)
		return usage_error("stop", "takes at least one VM");
	for (; optind < argc; optind++) {
		err_clear(&err);
		if (stop_one(argv[optind], force, grace_s, &err) < 0)
			code = fail(&err);
	}
	return code;
}
