/* smvm-runner: the command. Dispatch only; each subcommand is a file of its own. */
#include "runner/cmd/cmd.h"

#include "smfs/base/log.h"
#include "smfs/base/num.h"

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
	const char *name;
	int (*fn)(int argc, char **argv);
	const char *what;
} commands[] = {
	{"run", cmd_run, "boot an image, run a command in it, end with its exit code"},
	{"boot", cmd_boot, "boot an image and leave it running; prints the VM's id"},
	{"exec", cmd_exec, "run a command in a running VM"},
	{"snapshot", cmd_snapshot, "snapshot a running VM into the store"},
	{"restore", cmd_restore, "start a VM from a snapshot"},
	{"fork", cmd_fork, "start copies of a running VM"},
	{"ws", cmd_ws, "store what a restored VM has touched beside its snapshot"},
	{"ps", cmd_ps, "list running VMs"},
	{"info", cmd_info, "tell everything about one VM"},
	{"stop", cmd_stop, "stop a VM"},
	{"cp", cmd_cp, "copy files and folders from and to a running VM"},
	{"forward", cmd_forward, "let ports of this host lead into a running VM"},
	{"console", cmd_console, "attach to a VM's serial console, or print its log"},
	{"worker", cmd_worker, "a machine that a supervisor drives over a socket"},
	{"pool", cmd_pool, "machines of a snapshot, kept warm for whoever claims one"},
	{"doctor", cmd_doctor, "look whether this host can run VMs, and how well"},
};

static int print_help(FILE *f)
{
	fputs("Usage: smvm-runner COMMAND [ARGS]\n"
	      "Boot, snapshot and restore Linux microVMs.\n\n",
	      f);
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		fprintf(f, "  %-10s %s\n", commands[i].name, commands[i].what);
	fputs("\n`smvm-runner COMMAND --help` tells the rest; so does smvm-runner(1).\n", f);
	return f == stdout ? EXIT_OK : EXIT_USAGE;
}

void say_plain(const char *text)
{
	for (const unsigned char *p = (const unsigned char *)text; *p; p++) {
		/* In UTF-8, C1 is 0xc2 and one of these. */
		const bool c1 = p[0] == 0xc2 && p[1] >= 0x80 && p[1] < 0xa0;

		fputc(*p < 0x20 || *p == 0x7f || c1 ? '?' : *p, stderr);
		p += c1;
	}
}

int fail(const struct err *err)
{
	fputs("smvm-runner: ", stderr);
	say_plain(err->msg);
	fputc('\n', stderr);
	return err_exit_code(err->code);
}

int usage_error(const char *cmd, const char *fmt, ...)
{
	va_list ap;

	fprintf(stderr, "smvm-runner %s: ", cmd);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fprintf(stderr, "; see smvm-runner %s --help\n", cmd);
	return EXIT_USAGE;
}

int help(const char *text)
{
	fputs(text, stdout);
	return EXIT_OK;
}

int print_json(json_t *j)
{
	int r = j ? json_dumpf(j, stdout, JSON_INDENT(2) | JSON_PRESERVE_ORDER) : -1;

	if (r == 0)
		putchar('\n');
	json_decref(j);
	return r == 0 ? EXIT_OK : EXIT_FAILED;
}

int main(int argc, char **argv)
{
	const char *v = getenv("SMVM_LOG");

	log_init("smvm-runner", v && !strcmp(v, "debug")  ? LOG_DEBUG
				: v && !strcmp(v, "info") ? LOG_INFO
							  : LOG_WARN);
	signal(SIGPIPE, SIG_IGN);
	if (argc < 2)
		return print_help(stderr);
	if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help"))
		return print_help(stdout);
	if (!strcmp(argv[1], "--version")) {
		puts("smvm-runner " SMFS_VERSION);
		return EXIT_OK;
	}
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		if (!strcmp(argv[1], commands[i].name))
			return commands[i].fn(argc - 1, argv + 1);
	fprintf(stderr, "smvm-runner: no command '%s'; see smvm-runner --help\n", argv[1]);
	return EXIT_USAGE;
}
