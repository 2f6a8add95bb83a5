/* smvm-runner run: one command in a machine of its own, gone when it ends. */
#include "runner/cmd/boot_options.h"
#include "runner/cmd/cmd.h"
#include "runner/cmd/session.h"
#include "runner/control/control.h"
#include "runner/control/launch.h"

#include <string.h>
#include <unistd.h>

static const char usage[] =
	"Usage: smvm-runner run [OPTIONS] IMAGE [-- COMMAND [ARG...]]\n"
	"Boot IMAGE, run COMMAND in it (default: the image's entrypoint) on this terminal, and\n"
	"end the machine and exit with the command's status.\n\n" BOOT_OPTIONS_HELP
	"  -t, --tty             give it a terminal (default when both ends are one)\n"
	"  -T, --no-tty          never\n";

static void stop_vm(const struct rundir *d)
{
	char path[RUNDIR_PATH_MAX];

	/* A VM that cannot be asked has ended already, or dies with this process. */
	control_stop(rundir_file(d, "control.sock", path), d->info.pid, true, 0, NULL);
}

/*
 * The machine boots without a workload; the command is an exec session, so that its streams, its
 * terminal and its status are its own rather than the serial console's.
 */
static int run(struct boot_options *b, bool tty, int *status, struct err *err)
{
	struct agent_exec x = {.argv = b->conf.argv, .tty = tty, .stdin_open = true};
	char path[RUNDIR_PATH_MAX];
	struct rundir *d;

	if (!x.argv || !x.argv[0])
		return err_set(err, EINVAL, "the image names no program to run; give one after --");
	x.env = b->conf.env;
	x.cwd = b->conf.cwd;
	x.user = b->conf.user;
	b->conf.argv = NULL;
	int r = launch_boot(b->name, &b->boot, true, &d, err);
	if (r == 0) {
		r = session_exec(rundir_file(d, "vsock.sock", path), &x, AGENT_TIMEOUT_MS, status,
				 err);
		stop_vm(d);
		rundir_release(d);
	}
	b->conf.argv = x.argv;
	return r;
}

int cmd_run(int argc, char **argv)
{
	static const struct option options[] = {BOOT_OPTIONS_LONG,
						{"tty", no_argument, NULL, 't'},
						{"no-tty", no_argument, NULL, 'T'},
						{0}};
	bool tty = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
	struct err err = ERR_INIT;
	struct boot_options b;
	int o, r, status = 0;

	boot_options_init(&b);
	while ((o = getopt_long(argc, argv, "+tT" BOOT_OPTIONS_SHORT, options, NULL)) != -1) {
		if (o == '?')
			return EXIT_USAGE;
		if (o == 'h')
			return help(usage);
		if (o == 't' || o == 'T')
			tty = o == 't';
		else if (boot_options_take(&b, o, optarg, &err) < 0)
			return usage_error("run", "%s", err.msg);
	}
	if (optind == argc)
		return usage_error("run", "takes an image");
	const char *image = argv[optind++];
	if (optind < argc && !strcmp(argv[optind], "--"))
		optind++;
	r = boot_options_resolve(&b, image, optind < argc ? argv + optind : NULL, &err);
	if (r == 0)
		r = run(&b, tty, &status, &err);
	boot_options_free(&b);
	return r < 0 ? fail(&err) : status;
}
