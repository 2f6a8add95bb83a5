/*
 * smfs - the command: a content-addressed store of microVM snapshots, and its mount.
 */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "smfs/base/log.h"
#include "smfs/base/num.h"
#include "smfs/cmd/cmd.h"

static const struct command *const commands[] = {
	&cmd_init, &cmd_mount, &cmd_unmount, &cmd_remount, &cmd_ls,   &cmd_info, &cmd_stat,
	&cmd_rm,   &cmd_mv,    &cmd_import,  &cmd_export,  &cmd_fsck, &cmd_warm, &cmd_log,
	&cmd_gc,   &cmd_du,    &cmd_stats,   &cmd_limit,   &cmd_diff,
};

volatile int cmd_interrupted;

/* Nothing a command has begun becomes visible before it is whole, so to end is to clean up. */
static void end_now(int sig)
{
	static const char msg[] = "smfs: interrupted\n";

	if (write(STDERR_FILENO, msg, sizeof(msg) - 1) < 0)
		_exit(EXIT_INTERRUPTED);
	_exit(EXIT_INTERRUPTED);
}

static void note(int sig)
{
	cmd_interrupted = 1;
}

static void set_handler(void (*handler)(int))
{
	static const int signals[] = {SIGINT, SIGTERM, SIGHUP};
	struct sigaction sa = {.sa_handler = handler};

	for (size_t i = 0; i < ARRAY_SIZE(signals); i++)
		sigaction(signals[i], &sa, NULL);
}

void cmd_catch_signals(void)
{
	set_handler(note);
}

static void print_help(FILE *f)
{
	fprintf(f, "usage: smfs COMMAND [OPTION...] [ARGUMENT...]\n\n"
		   "Keep microVM snapshots, images and layers in one deduplicating store, and "
		   "mount it.\n\n"
		   "commands:\n");
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		fprintf(f, "  %-8s %-28s %s\n", commands[i]->name, commands[i]->args,
			commands[i]->summary);
	fprintf(f, "\noptions of every command:\n"
		   "  --store DIR    the store (default: $SMFS_STORE, or " SMFS_DEFAULT_STORE ")\n"
		   "  --json         print JSON, where there is something to print\n"
		   "  -v, --verbose  say more    -q, --quiet    say less\n"
		   "  -h, --help     help on the command\n\n"
		   "`smfs --version` prints the version. smfs(1) has the whole story.\n");
}

int main(int argc, char **argv)
{
	const char *name = argc > 1 ? argv[1] : NULL;
	const char *env = getenv("SMFS_STORE");

	log_init("smfs", LOG_WARN);
	set_handler(end_now);
	signal(SIGPIPE, SIG_IGN);
	if (!name) {
		print_help(stderr);
		return EXIT_USAGE;
	}
	if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || strcmp(name, "help") == 0) {
		print_help(stdout);
		return cmd_flush();
	}
	if (strcmp(name, "--version") == 0 || strcmp(name, "-V") == 0) {
		printf("smfs %s\n", SMFS_VERSION);
		return cmd_flush();
	}
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
		struct cmd c = {
			.self = commands[i],
			.store_dir = env && *env ? env : SMFS_DEFAULT_STORE,
			.store_given = env && *env,
		};

		if (strcmp(commands[i]->name, name) == 0)
			return commands[i]->run(&c, argc - 1, argv + 1);
	}
	fprintf(stderr, "smfs: no command `%s`; `smfs --help` lists them\n", name);
	return EXIT_USAGE;
}
