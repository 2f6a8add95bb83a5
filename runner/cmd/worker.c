/* smvm-runner worker: a process that a supervisor drives. */
#include "runner/worker/worker.h"
#include "runner/cmd/boot_options.h"
#include "runner/cmd/cmd.h"
#include "runner/control/where.h"
#include "runner/proto/agent_reach.h"
#include "runner/worker/ready.h"

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

enum { OPT_SOCKET = OPT_OWN, OPT_RESTORE, OPT_READY, OPT_READY_TIMEOUT, OPT_PREFAULT };

static const struct option options[] = {
	BOOT_OPTIONS_LONG,
	{"socket", required_argument, NULL, OPT_SOCKET},
	{"restore", required_argument, NULL, OPT_RESTORE},
	{"ready", required_argument, NULL, OPT_READY},
	{"ready-timeout", required_argument, NULL, OPT_READY_TIMEOUT},
	{"prefault", required_argument, NULL, OPT_PREFAULT},
	{0}};

/* A worker's own options beside its configuration. */
struct conditions {
	char *text[AGENT_CONDITIONS_MAX + 1];
	unsigned n;
};

static int add_condition(struct conditions *c, char *text, struct err *err)
{
	if (c->n == AGENT_CONDITIONS_MAX)
		return err_set(err, EINVAL, "--ready: at most %u", AGENT_CONDITIONS_MAX);
	c->text[c->n++] = text;
	return ready_check(text, err);
}

static int take(struct worker_config *cfg, struct conditions *ready, struct boot_options *b, int o,
		struct err *err)
{
	uint64_t n;

	switch (o) {
	case OPT_SOCKET:
		cfg->socket = optarg;
		return 0;
	case OPT_RESTORE:
		cfg->restore = optarg;
		return 0;
	case OPT_READY:
		return add_condition(ready, optarg, err);
	case OPT_READY_TIMEOUT:
		if (parse_u64(optarg, 1, 3600, &n, err) < 0)
			return -EINVAL;
		cfg->ready_ms = (int)n * 1000;
		return 0;
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
	struct conditions ready = {.n = 0};
	struct worker_config cfg = {.ready_ms = 180000, .ready = ready.text};
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
		ready.text[0] = agent;
	code = work(&cfg, &b, argc, argv, &err);
	boot_options_free(&b);
	return code;
}
