/* smvm-runner boot: a machine from an image, left running. */
#include "runner/cmd/boot_options.h"
#include "runner/cmd/cmd.h"
#include "runner/control/control.h"
#include "runner/control/launch.h"
#include "runner/control/publish.h"
#include "runner/guest/agent_client.h"

#include "smfs/base/num.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

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

enum { OPT_JSON = OPT_OWN };

static int wait_ready(const struct rundir *d, char *const *conditions, int timeout_ms,
		      struct err *err)
{
	char path[RUNDIR_PATH_MAX];
	struct agent *a = NULL;
	int r = access(rundir_file(d, "vsock.sock", path), F_OK) == 0
			? agent_connect(path, timeout_ms, &a, err)
			: err_set(err, ENOTSUP, "--ready: VM %s is a bare guest: it has no agent",
				  d->info.name);

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

static const struct option options[] = {BOOT_OPTIONS_LONG,
					READY_OPTIONS_LONG,
					{"foreground", no_argument, NULL, 'f'},
					{"json", no_argument, NULL, OPT_JSON},
					{0}};

struct booting {
	struct boot_options b;
	struct ready_options ready;
	bool foreground, json;
};

static int take(struct booting *q, int o, struct err *err)
{
	switch (o) {
	case 'f':
		q->foreground = true;
		return 0;
	case OPT_JSON:
		q->json = true;
		return 0;
	case OPT_READY:
	case OPT_READY_TIMEOUT:
		return ready_options_take(&q->ready, o, optarg, err);
	default:
		return boot_options_take(&q->b, o, optarg, err);
	}
}

static int launch(const struct booting *q, struct err *err)
{
	struct rundir *d;
	int r = launch_boot(q->b.name, &q->b.boot, false, &d, err);

	if (r < 0)
		return r;
	if (q->ready.n)
		r = wait_ready(d, q->ready.condition, (int)q->ready.timeout_s * 1000, err);
	if (r < 0)
		stop_vm(d);
	else
		tell(d, q->json);
	rundir_release(d);
	return r;
}

static int run(struct booting *q, int argc, char **argv)
{
	struct err err = ERR_INIT;
	int code = EXIT_OK;
	/* getopt has eaten a "--" that comes before any argument: then there is no image. */
	const char *image =
		optind < argc && strcmp(argv[optind - 1], "--") != 0 ? argv[optind++] : NULL;

	if (optind < argc && !strcmp(argv[optind], "--"))
		optind++;
	if (boot_options_resolve(&q->b, image, optind < argc ? argv + optind : NULL, &err) == 0) {
		if (q->foreground)
			code = foreground_boot(q->b.name, &q->b.boot, &err);
		else
			launch(q, &err);
	}
	return err.code ? fail(&err) : code;
}

int cmd_boot(int argc, char **argv)
{
	struct booting q = {.ready = {.timeout_s = 60}};
	struct err err = ERR_INIT;
	int o, code;

	boot_options_init(&q.b);
	while ((o = getopt_long(argc, argv, "+f" BOOT_OPTIONS_SHORT, options, NULL)) != -1) {
		if (o == '?')
			return EXIT_USAGE;
		if (o == 'h')
			return help(usage);
		if (take(&q, o, &err) < 0)
			return usage_error("boot", "%s", err.msg);
	}
	if (q.foreground && q.ready.n)
		return usage_error("boot",
				   "--foreground does not come back, and so has no --ready");
	code = run(&q, argc, argv);
	boot_options_free(&q.b);
	return code;
}
