/* smvm-runner worker: a process that a supervisor drives. */
#include "runner/worker/worker.h"
#include "runner/cmd/boot_options.h"
#include "runner/cmd/cmd.h"
#include "runner/control/where.h"

#include "smfs/base/num.h"

#include <string.h>
#include <sys/prctl.h>

static const char usage[] =
	"Usage: smvm-runner worker --socket PATH [OPTIONS] [IMAGE [-- COMMAND [ARG...]]]\n"
	"Connect to the supervisor that listens at PATH and do what it says: restore a snapshot, "
	"reset\n"
	"to another or the same in place, take snapshots (smvm-runner(1), WORKERS, and "
	"doc/protocol.md).\n"
	"With IMAGE or --kernel: boot that and say BAKE_READY when it is ready.\n\n"
	"      --socket PATH     the supervisor's Unix socket\n"
	"      --restore SNAPSHOT\n"
	"                        begin with this one\n"
	"      --ready CONDITION of IMAGE, as of `boot` (repeatable; default: agent); of a bare test\n"
	"                        guest log:EXPRESSION is about its console, and the only one\n"
	"      --ready-timeout TIMEOUT\n"
	"                        seconds it may take to be ready (180)\n"
	"      --prefault WHAT   as of `restore`\n" BOOT_OPTIONS_HELP;

enum { OPT_SOCKET = OPT_OWN, OPT_RESTORE, OPT_PREFAULT };

static const struct option options[] = {BOOT_OPTIONS_LONG,
					{"socket", required_argument, NULL, OPT_SOCKET},
					{"restore", required_argument, NULL, OPT_RESTORE},
					READY_OPTIONS_LONG,
					{"prefault", required_argument, NULL, OPT_PREFAULT},
					{0}};

static int take(struct worker_config *cfg, struct ready_options *ready, struct boot_options *b,
		int o, struct err *err)
{
	switch (o) {
	case OPT_SOCKET:
		cfg->socket = optarg;
		return 0;
	case OPT_RESTORE:
		cfg->restore = optarg;
		return 0;
	case OPT_READY:
	case OPT_READY_TIMEOUT:
		return ready_options_take(ready, o, optarg, err);
	case OPT_PREFAULT:
		return prefault_policy_of(optarg, &cfg->prefault)
			       ? 0
			       : err_set(err, EINVAL, "--prefault: none, ws or all");
	default:
		return boot_options_take(b, o, optarg, err);
	}
}

static int work(struct worker_config *cfg, struct boot_options *b, int argc, char **argv,
		struct err *err)
{
	const char *image = optind < argc ? argv[optind++] : NULL;
	const bool boots = image || b->kernel;

	if (optind < argc && !strcmp(argv[optind], "--"))
		optind++;
	if (boots && cfg->restore)
		return usage_error("worker", "either --restore or an image");
	if (boots && boot_options_resolve(b, image, optind < argc ? argv + optind : NULL, err) < 0)
		return fail(err);
	cfg->boot = boots ? &b->boot : NULL;
	cfg->mount = where_mount(b->mount);
	cfg->name = b->name;
	cfg->forward = b->forward;
	cfg->nforwards = b->nforwards;
	const int code = worker_run(cfg, err);

	return err->code ? fail(err), code : code;
}

int cmd_worker(int argc, char **argv)
{
	static char agent[] = "agent";
	struct ready_options ready = {.timeout_s = 180};
	struct worker_config cfg = {.ready = ready.condition};
	struct err err = ERR_INIT;
	struct boot_options b;
	int o, code = EXIT_OK;

	/* A pool starts it as /proc/self/exe. */
	prctl(PR_SET_NAME, "smvm-runner");
	boot_options_init(&b);
	while ((o = getopt_long(argc, argv, "+" BOOT_OPTIONS_SHORT, options, NULL)) != -1) {
		if (o == '?')
			return EXIT_USAGE;
		if (o == 'h')
			return help(usage);
		if (take(&cfg, &ready, &b, o, &err) < 0)
			return usage_error("worker", "%s", err.msg);
	}
	if (!cfg.socket)
		return usage_error("worker", "--socket is needed");
	if (!ready.n)
		ready.condition[0] = agent;
	cfg.ready_ms = (int)ready.timeout_s * 1000;
	code = work(&cfg, &b, argc, argv, &err);
	boot_options_free(&b);
	return code;
}
