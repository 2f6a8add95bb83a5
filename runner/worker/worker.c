#include "runner/worker/worker.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "runner/control/privs.h"
#include "runner/control/publish.h"
#include "runner/worker/link.h"
#include "smfs/base/log.h"
#include "smfs/base/signals.h"
#include "smfs/base/unix_socket.h"

#define CONNECT_MS 60000

static int dial(const char *path, struct err *err)
{
	const int fd = unix_connect(path, CONNECT_MS, err);

	return fd < 0 ? err_wrap(err, fd, "connect to the supervisor") : fd;
}

/* The machine's thread is stuck; the process ends, and with it the machine. */
static void abandon(void *arg, int exit_code, const struct err *why)
{
	log_err("worker: what is being done does not end; it is given up%s%s",
		exit_code ? ": " : "", exit_code ? why->msg : "");
	rundir_erase(arg);
	_exit(exit_code);
}

static int serve(const struct worker_config *cfg, int fd, struct rundir *dir, struct err *err)
{
	struct link *l = calloc(1, sizeof(*l));
	struct desk desk;
	struct jobs j = {.desk = &desk,
			 .dir = dir,
			 .epoll_fd = -1,
			 .mount = cfg->mount,
			 .prefault = cfg->prefault,
			 .restore = cfg->restore,
			 .boot = cfg->boot,
			 .ready = cfg->ready,
			 .ready_ms = cfg->ready_ms};
	int r;

	if (!l) {
		close(fd);
		return err_set(err, ENOMEM, "worker: out of memory");
	}
	l->fd = fd;
	l->desk = &desk;
	l->vm = dir->info.id;
	l->dir = dir->path;
	l->forwards = dir->info.forwards;
	l->with_machine = cfg->restore || cfg->boot;
	l->baking = cfg->boot != NULL;
	l->ready_ms = (unsigned)cfg->ready_ms;
	l->abandon = abandon;
	l->arg = dir;
	r = desk_init(&desk, err);
	if (r == 0)
		r = jobs_init(&j, err);
	if (r == 0)
		/* Blocked in every thread: they come by the descriptor, to the link. */
		r = l->signal_fd = signals_open((const int[]){SIGTERM, SIGINT, SIGHUP, 0},
						SFD_NONBLOCK, NULL, err);
	/* Each thread gives up its own, and this one is the only one yet. */
	if (r >= 0)
		r = privs_drop(err);
	if (r == 0)
		r = link_start(l, err);
	if (r == 0) {
		jobs_run(&j);
		r = link_finish(l, err);
	}
	jobs_fini(&j);
	desk_fini(&desk);
	free(l);
	return r;
}

int worker_run(const struct worker_config *cfg, struct err *err)
{
	int fd = dial(cfg->socket, err);
	struct rundir *dir;
	int r;

	if (fd < 0)
		return EXIT_FAILED;
	r = rundir_create(cfg->name, &dir, err);
	if (r < 0) {
		close(fd);
		return err_exit_code(-r);
	}
	/* Its process holds no end of the supervisor's connection, which is to end with this one's.
	 */
	r = publish_ports(dir, cfg->forward, cfg->nforwards, err);
	if (r == 0)
		r = serve(cfg, fd, dir, err);
	else
		close(fd);
	rundir_remove(dir);
	return r ? EXIT_FAILED : EXIT_OK;
}
