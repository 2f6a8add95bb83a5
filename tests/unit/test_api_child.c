/* runner/api/child.h: what a process that has ended said last. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runner/api/child.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/clock.h"

static char dir[] = "/tmp/test_api_child.XXXXXX";

/* A process that runs `script` in place of the runner. */
static void begin(struct child *c, const char *script)
{
	cleanup_with(args_free) struct args a;
	struct err err = ERR_INIT;
	char path[64];
	FILE *f;

	snprintf(path, sizeof(path), "%s/runner", dir);
	f = fopen(path, "we");
	assert_non_null(f);
	fprintf(f, "#!/bin/sh\n%s\n", script);
	assert_int_equal(fclose(f), 0);
	assert_int_equal(chmod(path, 0700), 0);
	setenv("SMVM_RUNNER", path, 1);
	args_begin(&a, "x");
	child_init(c);
	assert_int_equal(child_spawn(c, &a, -1, -1, &err), 0);
}

static void of_no_process_nothing_is_awaited(void **state)
{
	const int64_t began = monotonic_ms();
	struct err err = ERR_INIT;
	struct child c;

	child_init(&c);
	err_set(&err, EPIPE, "as it was");
	assert_int_equal(child_last_words(&c, -EPIPE, &err), -EPIPE);
	assert_string_equal(err.msg, "as it was");
	assert_true(monotonic_ms() - began < 4000);
}

static void on_alarm(int sig)
{
}

/* It takes its time to say why; and the program that waits is disturbed all along. */
static void its_last_words_are_awaited_whatever_signals_come(void **state)
{
	const struct itimerval often = {.it_interval.tv_usec = 5000, .it_value.tv_usec = 5000};
	const struct sigaction act = {.sa_handler = on_alarm};
	struct err err = ERR_INIT;
	struct child c;

	begin(&c, "echo first >&2; sleep 0.5; echo 'smvm-runner: snapshot x: not there' >&2; "
		  "exit 3");
	assert_int_equal(sigaction(SIGALRM, &act, NULL), 0);
	assert_int_equal(setitimer(ITIMER_REAL, &often, NULL), 0);
	const int r = child_last_words(&c, -EPIPE, &err);
	setitimer(ITIMER_REAL, &(struct itimerval){0}, NULL);
	child_end(&c, 10000);
	assert_int_equal(r, -ENOENT);
	assert_string_equal(err.msg, "snapshot x: not there");
}

static void nothing_is_left_of_it_whatever_signals_come(void **state)
{
	const struct itimerval often = {.it_interval.tv_usec = 50, .it_value.tv_usec = 50};
	const struct sigaction act = {.sa_handler = on_alarm};
	struct child c;

	assert_int_equal(sigaction(SIGALRM, &act, NULL), 0);
	for (int i = 0; i < 20; i++) {
		begin(&c, "exec sleep 1000");
		const pid_t pid = c.pid;
		assert_int_equal(setitimer(ITIMER_REAL, &often, NULL), 0);
		child_end(&c, 0);
		setitimer(ITIMER_REAL, &(struct itimerval){0}, NULL);
		errno = 0;
		const pid_t left = waitpid(pid, NULL, 0);
		assert_int_equal(left, -1);
		assert_int_equal(errno, ECHILD);
	}
}

static int setup(void **state)
{
	return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state)
{
	char path[64];

	snprintf(path, sizeof(path), "%s/runner", dir);
	unlink(path);
	return rmdir(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(of_no_process_nothing_is_awaited),
		cmocka_unit_test(its_last_words_are_awaited_whatever_signals_come),
		cmocka_unit_test(nothing_is_left_of_it_whatever_signals_come),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
