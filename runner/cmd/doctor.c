/* smvm-runner doctor: is this host able to run machines? */
#include "runner/doctor/doctor.h"
#include "runner/cmd/cmd.h"
#include "runner/control/where.h"

#include <stdlib.h>

static json_t *as_json(const struct doctor *d)
{
	return json_pack("{s:i, s:b, s:{s:i, s:i, s:i, s:i}, s:O}", "version", 1, "ok",
			 d->count[DOCTOR_FAIL] == 0, "summary", "pass", (int)d->count[DOCTOR_PASS],
			 "warn", (int)d->count[DOCTOR_WARN], "fail", (int)d->count[DOCTOR_FAIL],
			 "skip", (int)d->count[DOCTOR_SKIP], "checks", d->checks);
}

int cmd_doctor(int argc, char **argv)
{
	static const struct option options[] = {{"json", no_argument, NULL, 'j'},
						{"mount", required_argument, NULL, 'm'},
						{"store", required_argument, NULL, 's'},
						{"help", no_argument, NULL, 'h'},
						{0}};
	const char *mount = NULL, *store = getenv("SMFS_STORE");
	struct err err = ERR_INIT;
	bool json = false;
	int o;

	while ((o = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		switch (o) {
		case 'j':
			json = true;
			break;
		case 'm':
			mount = optarg;
			break;
		case 's':
			store = optarg;
			break;
		case 'h':
			return help(
				"Usage: smvm-runner doctor [OPTIONS]\n"
				"Look whether this host can run machines, and how well: KVM (a small\n"
				"guest is run), FUSE, the kernel, memory, limits, control groups, the\n"
				"clock, the store, what guests are made of. A line per check: PASS,\n"
				"WARN, FAIL or SKIP, and what to do. Exit status 0 if nothing failed,\n"
				"else 1.\n\n"
				"      --mount DIR  where the store is mounted, or would be\n"
				"                   ($SMFS_MOUNT, /mnt/smfs)\n"
				"      --store DIR  the store, where it is not what the mount says\n"
				"                   ($SMFS_STORE, /var/lib/smfs)\n"
				"      --json       as an object: smvm-runner(1)\n");
		default:
			return EXIT_USAGE;
		}
	}
	if (argc > optind)
		return usage_error("doctor", "takes no arguments");

	struct doctor d = {.mount = where_mount(mount),
			   .store = store && *store ? store : NULL,
			   .out = json ? NULL : stdout};
	if (doctor_run(&d, &err) < 0) {
		doctor_free(&d);
		return fail(&err);
	}
	int status = d.count[DOCTOR_FAIL] ? EXIT_FAILED : EXIT_OK;
	if (!json)
		printf("%u passed, %u warnings, %u failed, %u skipped\n", d.count[DOCTOR_PASS],
		       d.count[DOCTOR_WARN], d.count[DOCTOR_FAIL], d.count[DOCTOR_SKIP]);
	else if (print_json(as_json(&d)) != EXIT_OK)
		status = EXIT_FAILED;
	doctor_free(&d);
	return status;
}
