/* smvm-runner boot: a machine from an image, left running. */
#include "runner/cmd/boot_options.h"
#include "runner/cmd/cmd.h"
#include "runner/control/control.h"
#include "runner/control/launch.h"
#include "runner/control/publish.h"
#include "runner/guest/agent_client.h"
#include "runner/proto/agent_reach.h"

#include "smfs/base/num.h"

#include <stdio.h>
#include <string.h>

static const char usage[] =
	"Usage: smvm-runner boot [OPTIONS] IMAGE [-- ARG...]\n"
	"Boot IMAGE, run its entrypoint (with ARGs in place of its Cmd), and print the VM's id\n"
	"once its agent answers.\n\n" BOOT_OPTIONS_HELP
	"  -f, --foreground      stay, with the serial console on standard input and output\n"
	"      --ready CONDITION come back only when it holds, in TIMEOUT seconds or not at all\n"
	"                        (repeatable): port:N listened on, file:PATH there, log:EXPRESSION\n"
	"                        printed by the entrypoint, exec:COMMAND ended with 0, agent\n"
	"      --ready-timeout TIMEOUT\n"
	"                        60 if not given\n"
	"      --json            print id, name, pid and directory as JSON\n";

enum { OPT_JSON = OPT_OWN, OPT_READY, OPT_READY_TIMEOUT };

static int wait_ready(const struct rundir *d, char *const *conditions, int timeout_ms,
		      struct err *err)
{
	char path[RUNDIR_PATH_MAX];
	struct agent *a = NULL;
	int r = agent_connect(rundir_file(d, "vsock.sock", path), timeout_ms, &a, err);

	if (r == 0)
		r = agent_ready(a, conditions, timeout_ms, NULL, err);
	agent_close(a);
	return r;
}

static void stop_vm(const struct rundir *d)
{
	char path[RUNDIR_PATH_MAX];

	control_stop(rundir_file(d, "control.sock", path), d->info.pid, true, 0, NULL);
}

static void tell(const struct rundir *d, bool json)
{
	if (json) {
		json_t *j = json_pack("{s:s, s:s, s:i, s:s}", "id", d->info.id, "name",
				      d->info.name, "pid", (int)d->info.pid, "dir", d->path);

		if (j)
			publish_add(j, d->info.forwards);
		print_json(j);
	} else {
		puts(d->info.id);
	}
}

int cmd_boot(int argc, char **argv)
{
	static const struct option options[] = {
		BOOT_OPTIONS_LONG,
		{"foreground", no_argument, NULL, 'f'},
		{"json", no_argument, NULL, OPT_JSON},
		{"ready", required_argument, NULL, OPT_READY},
		{"ready-timeout", required_argument, NULL, OPT_READY_TIMEOUT},
		{0}};
	char *ready[AGENT_CONDITIONS_MAX + 1] = {0};
	bool foreground = false, json = false;
	uint64_t ready_s = 60;
	unsigned nready = 0;
	struct err err = ERR_INIT;
	struct boot_options b;
	struct rundir *d;
	int o, r, code = EXIT_OK;

	boot_options_init(&b);
	while ((o = getopt_long(argc, argv, "+f" BOOT_OPTIONS_SHORT, options, NULL)) != -1) {
		if (o == '?')
			return EXIT_USAGE;
		if (o == 'h')
			return help(usage);
		if (o == 'f')
			foreground = true;
		else if (o == OPT_JSON)
			json = true;
		else if (o == OPT_READY) {
			enum agent_condition kind;
			const char *arg;

			if (nready == AGENT_CONDITIONS_MAX ||
			    agent_condition_parse(optarg, &kind, &arg, &err) < 0)
				return usage_error("boot", "--ready: %s",
						   err.code ? err.msg : "too many");
			ready[nready++] = optarg;
		} else if (o == OPT_READY_TIMEOUT) {
			if (parse_u64(optarg, 1, 86400, &ready_s, &err) < 0)
				return usage_error("boot", "--ready-timeout: %s", err.msg);
		} else if (boot_options_take(&b, o, optarg, &err) < 0)
			return usage_error("boot", "%s", err.msg);
	}
	/* getopt has eaten a "--" that comes before any argument: then there is no image. */
	const char *image =
		optind < argc && strcmp(argv[optind - 1], "--") != 0 ? argv[optind++] : NULL;
	if (optind < argc && !strcmp(argv[optind], "--"))
		optind++;
	r = boot_options_resolve(&b, image, optind < argc ? argv + optind : NULL, &err);
	if (r == 0 && foreground) {
		code = foreground_boot(b.name, &b.boot, &err);
		if (err.code)
			code = fail(&err);
	} else if (r == 0) {
		r = launch_boot(b.name, &b.boot, false, &d, &err);
		if (r == 0 && ready[0]) {
			r = wait_ready(d, ready, (int)ready_s * 1000, &err);
			if (r < 0) {
				stop_vm(d);
				rundir_release(d);
			}
		}
		if (r == 0) {
			tell(d, json);
			rundir_release(d);
		}
	}
	boot_options_free(&b);
	return r < 0 ? fail(&err) : code;
}
