/* smvm-runner console: the serial console of a VM, live or its log. */
#include "runner/cmd/cmd.h"
#include "runner/cmd/tty.h"
#include "runner/control/control.h"
#include "runner/control/rundir.h"

#include "smfs/base/cleanup.h"
#include "smfs/base/io.h"

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#define ESCAPE 0x1d /* Ctrl-] */

static int print_log(const struct rundir *d, struct err *err)
{
	char path[RUNDIR_PATH_MAX], buf[16384];
	cleanup_fd int fd = open(rundir_file(d, "console.log", path), O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return err_errno(err, "open %s", path);
	while ((n = read(fd, buf, sizeof(buf))) > 0) {
		int r = write_full(STDOUT_FILENO, buf, n);

		if (r < 0)
			return err_set(err, -r, "write console log: %s", strerror(-r));
	}
	return n < 0 ? err_errno(err, "read %s", path) : 0;
}

/* Bytes both ways until the VM ends, Ctrl-] on a terminal, or end of a piped input. */
static int relay(int fd, struct err *err)
{
	struct pollfd p[2] = {{.fd = fd, .events = POLLIN}, {.fd = STDIN_FILENO, .events = POLLIN}};
	char buf[4096];

	for (;;) {
		if (poll(p, 2, -1) < 0 && errno != EINTR)
			return err_errno(err, "wait for console");
		if (p[0].revents) {
			ssize_t n = read(fd, buf, sizeof(buf));

			if (n <= 0)
				return 0;
			if (write_full(STDOUT_FILENO, buf, n) < 0)
				return 0;
		}
		if (p[1].revents) {
			ssize_t n = read(STDIN_FILENO, buf, sizeof(buf));

			if (n > 0 && isatty(STDIN_FILENO) && memchr(buf, ESCAPE, n))
				return 0;
			if (n > 0 && write_full(fd, buf, n) < 0)
				return 0;
			if (n == 0 || (n < 0 && errno != EINTR))
				return 0;
		}
	}
}

static int attach(const struct rundir *d, struct err *err)
{
	char path[RUNDIR_PATH_MAX];
	cleanup_fd int fd = -1;
	struct tty tty;
	int r = control_call(rundir_file(d, "control.sock", path),
			     json_pack("{s:s}", "op", "console"), 30000, NULL, &fd, err);

	if (r < 0)
		return r;
	if (isatty(STDIN_FILENO))
		fprintf(stderr, "Console of %s; Ctrl-] leaves.\n", d->info.name);
	r = tty_raw(&tty, err);
	if (r < 0)
		return r;
	r = relay(fd, err);
	tty_restore(&tty);
	return r;
}

int cmd_console(int argc, char **argv)
{
	static const struct option options[] = {
		{"log", no_argument, NULL, 'l'}, {"help", no_argument, NULL, 'h'}, {0}};
	struct err err = ERR_INIT;
	bool log = false;
	struct rundir *d;
	int o, r;

	while ((o = getopt_long(argc, argv, "lh", options, NULL)) != -1) {
		switch (o) {
		case 'l':
			log = true;
			break;
		case 'h':
			return help(
				"Usage: smvm-runner console [-l] VM\n"
				"Attach to the serial console; Ctrl-] or the end of input leaves.\n"
				"  -l, --log   print what the console has said so far instead\n");
		default:
			return EXIT_USAGE;
		}
	}
	if (argc - optind != 1)
		return usage_error("console", "takes one VM");
	if (rundir_find(argv[optind], &d, &err) < 0)
		return fail(&err);
	r = log ? print_log(d, &err) : attach(d, &err);
	rundir_release(d);
	return r < 0 ? fail(&err) : EXIT_OK;
}
