#include "runner/cmd/session.h"

#include "runner/cmd/tty.h"

#include "smfs/base/cleanup.h"
#include "smfs/base/clock.h"
#include "smfs/base/num.h"
#include "smfs/base/signals.h"

#include <signal.h>
#include <stdio.h>
#include <sys/signalfd.h>

#define START_MS 30000

static int open_signals(sigset_t *old, struct err *err)
{
	static const int forwarded[] = {SIGINT,	 SIGTERM,  SIGHUP,  SIGQUIT, SIGUSR1,
					SIGUSR2, SIGWINCH, SIGTSTP, 0};

	return signals_open(forwarded, SFD_NONBLOCK, old, err);
}

int session_exec(const char *vsock_path, struct agent_exec *x, int connect_ms, int *status,
		 struct err *err)
{
	struct agent *a = NULL;
	struct agent_exit exit;
	struct tty tty = {0};
	unsigned rows, cols;
	char peak[SIZE_STR_MAX];
	uint64_t began;
	sigset_t old;
	/* What is measured is not the connection. */
	int r = x->measure ? agent_connect(vsock_path, connect_ms, &a, err)
			   : agent_connect_early(vsock_path, connect_ms, -1, &a, err);

	if (r < 0)
		return r;
	tty_size(STDIN_FILENO, &rows, &cols);
	x->rows = (uint16_t)rows;
	x->cols = (uint16_t)cols;
	cleanup_fd int sig = open_signals(&old, err);
	began = monotonic_us();
	r = sig < 0 ? sig : agent_exec_start(a, x, START_MS, err);
	if (r == 0 && x->tty)
		r = tty_raw(&tty, err);
	if (r == 0) {
		struct agent_exec_io io = {.in = x->stdin_open ? STDIN_FILENO : -1,
					   .out = STDOUT_FILENO,
					   .err = STDERR_FILENO,
					   .signal_fd = sig,
					   .tty_fd = STDIN_FILENO};

		r = agent_exec_run(a, &io, &exit, err);
	}
	tty_restore(&tty);
	agent_close(a);
	if (sig >= 0)
		sigprocmask(SIG_SETMASK, &old, NULL);
	if (r == 0 && x->measure)
		fprintf(stderr, "smvm-runner: status %d after %.3f s, at most %s of memory\n",
			agent_exit_status(&exit), (double)(monotonic_us() - began) / 1e6,
			format_size(exit.peak, peak));
	if (r == 0)
		*status = agent_exit_status(&exit);
	return r;
}
