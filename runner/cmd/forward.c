/* smvm-runner forward: ports of this host that lead into a running VM, as long as this runs. */
#include "runner/control/forward.h"
#include "runner/cmd/cmd.h"
#include "runner/control/rundir.h"

#include "smfs/base/cleanup.h"
#include "smfs/base/signals.h"

#include <signal.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/pidfd.h>

static const char usage[] =
	"Usage: smvm-runner forward VM [[ADDRESS:]PORT:]TARGET...\n"
	"Let PORT of this host (0 or none: any; of 127.0.0.1 unless ADDRESS is given) lead to TARGET, a\n"
	"TCP port or the absolute path of a Unix socket in the guest, until interrupted or the VM ends.\n"
	"Prints each as ADDRESS:PORT:TARGET once it can be used.\n";

/* Readable when a signal asks for the end, or the VM's process has ended. */
static int end_fd(pid_t vm, struct err *err)
{
	cleanup_fd int ep = epoll_create1(EPOLL_CLOEXEC);
	struct epoll_event e = {.events = EPOLLIN};
	int fd[2];

	fd[0] = signals_open((const int[]){SIGINT, SIGTERM, SIGHUP, 0}, 0, NULL, err);
	if (fd[0] < 0)
		return fd[0];
	fd[1] = pidfd_open(vm, 0);
	for (int i = 0; i < 2; i++)
		if (fd[i] < 0 || epoll_ctl(ep, EPOLL_CTL_ADD, fd[i], &e) < 0)
			return err_errno(err, "forward: watch %s", i ? "the VM" : "for signals");
	return steal_fd(&ep);
}

static int run(const struct rundir *d, const struct forward *list, unsigned n, struct err *err)
{
	char path[RUNDIR_PATH_MAX], text[FORWARD_TEXT_MAX];
	cleanup_fd int end = end_fd(d->info.pid, err);
	struct forwarder *f;
	int r = end < 0 ? end : forwarder_open(list, n, &f, err);

	if (r < 0)
		return r;
	for (unsigned i = 0; i < n; i++)
		puts(forward_text(&list[i], forwarder_port(f, i), text));
	fflush(stdout);
	r = forwarder_run(f, rundir_file(d, "vsock.sock", path), end, err);
	forwarder_free(f);
	return r;
}

int cmd_forward(int argc, char **argv)
{
	static const struct option options[] = {{"help", no_argument, NULL, 'h'}, {0}};
	struct forward list[FORWARD_MAX];
	struct err err = ERR_INIT;
	struct rundir *d;
	unsigned n = 0;
	int o, r;

	while ((o = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		if (o == 'h')
			return help(usage);
		return EXIT_USAGE;
	}
	if (argc - optind < 2 || argc - optind - 1 > FORWARD_MAX)
		return usage_error("forward", "takes a VM and 1 to %d forwards", FORWARD_MAX);
	for (int i = optind + 1; i < argc; i++)
		if (forward_parse(argv[i], &list[n++], &err) < 0)
			return usage_error("forward", "%s", err.msg);
	if (rundir_find(argv[optind], &d, &err) < 0)
		return fail(&err);
	r = run(d, list, n, &err);
	rundir_release(d);
	return r < 0 ? fail(&err) : EXIT_OK;
}
