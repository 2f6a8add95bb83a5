/*
 * runner/worker/session.h: the table of states and verbs, each cell in both dialects; time without
 * waiting for it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runner/worker/session.h"

#define S 1000000ull

static struct session s;
static char said[65536];
static struct job job;
static unsigned jobs;
static uint64_t now;

static void on_say(void *arg, const char *line, size_t n)
{
	assert_true(n > 1 && line[n - 1] == '\n' && !memchr(line, '\n', n - 1));
	strncat(said, line, n);
}

static void on_start(void *arg, const struct job *j)
{
	job = *j;
	jobs++;
}

static uint64_t on_copied(void *arg)
{
	return 4096;
}

static const struct session_ops ops = {on_say, on_start, on_copied};

static void fresh(bool hello, bool machine)
{
	now = 5 * S;
	said[0] = '\0';
	jobs = 0;
	session_init(&s, &ops, NULL, "id", "/run/x");
	session_begin(&s, false, now);
	assert_string_equal(said, "READY\n");
	s.hello = hello;
	s.machine = machine;
	said[0] = '\0';
}

static void line(const char *text)
{
	said[0] = '\0';
	session_line(&s, text, strlen(text), now);
}

static void event(enum event_kind kind, int code)
{
	struct event e = {
		.kind = kind, .us = 9, .how = "warm", .ended = "shutdown", .generation = 2};

	e.err.code = code;
	if (code)
		strcpy(e.err.msg, "why\nnot");
	said[0] = '\0';
	session_event(&s, &e, now);
}

static bool says(const char *text)
{
	const bool yes = strncmp(said, text, strlen(text)) == 0;

	if (!yes)
		print_message("said: %s", said);
	return yes;
}

#define PHASES                                                                                 \
	" reset_vsock_us=0 remap_cow_us=0 load_meta_us=0 restore_snapshot_us=0 ram_copy_us=0 " \
	"gic_restore_us=0 vcpu_restore_us=0 vtimer_offset_us=0 mmio_restore_us=0 "             \
	"listener_restore_us=0"

static void test_no_machine(void **state)
{
	fresh(false, false);
	line("SNAPSHOT a");
	assert_true(says("ERR_SNAPSHOT there is no machine"));
	line("SNAPSHOT_ASYNC a");
	assert_true(says("ERR_SNAPSHOT there is no machine"));
	assert_int_equal(jobs, 0);
	line("RESTORE a");
	assert_int_equal(job.kind, JOB_RESTORE);
	event(EVENT_RESTORED, 0);
	assert_string_equal(said, "DONE 9" PHASES "\n");
	assert_true(s.machine);
}

static void test_port(void **state)
{
	struct event e = {.kind = EVENT_RESTORED, .us = 1, .host_port = 8080, .how = "new"};

	fresh(false, false);
	line("RESTORE a");
	said[0] = '\0';
	session_event(&s, &e, now);
	assert_string_equal(said, "DONE 1 host_port=8080" PHASES "\n");
}

static void test_extended_answers(void **state)
{
	fresh(true, true);
	line("RESTORE a id=r1");
	event(EVENT_RESTORED, 0);
	assert_string_equal(said, "DONE 9" PHASES
				  " generation=2 how=warm hooks=0 hooks_failed=0 id=r1\n");
	line("SNAPSHOT a id=s1");
	event(EVENT_SAVED, 0);
	assert_string_equal(said, "DONE_SNAPSHOT bytes_written=0 capture_us=0 save_us=0 pause_us=0 "
				  "diff=0 id=s1\n");
	line("SNAPSHOT a");
	event(EVENT_FAILED, ENOSPC);
	assert_string_equal(said, "ERR_SNAPSHOT code=ENOSPC why not\n");
	line("PING id=1");
	assert_true(says("ERR_UNKNOWN code=ENOSYS"));
	line("HELLO 1 id=h");
	assert_string_equal(said, "HELLO 1 program=smvm-runner/" SMFS_VERSION
				  " vm=id dir=/run/x line_max=16384 deadline_ms=60000 id=h\n");
}

/* One answer each: how it went, or that something else has come. */
static void test_warm_up(void **state)
{
	static const char *const next[] = {"RESTORE a id=2", "SNAPSHOT a", "SNAPSHOT_ASYNC a",
					   "QUIT id=2"};

	fresh(true, true);
	line("WARM_UP true id=w");
	assert_int_equal(job.kind, JOB_WARM_UP);
	assert_string_equal(job.rq.path, "true");
	line("WARM_UP true id=x");
	assert_string_equal(said, "ERR_WARM_UP id=x code=EBUSY another program warms it up\n");
	event(EVENT_WARMED, 0);
	assert_string_equal(said, "WARMED us=9 id=w\n");
	line("WARM_UP true id=v");
	event(EVENT_WARMED, ENOENT);
	assert_string_equal(said, "ERR_WARM_UP id=v code=ENOENT why not\n");
	for (size_t i = 0; i < sizeof(next) / sizeof(*next); i++) {
		fresh(true, true);
		line("WARM_UP true id=w");
		line(next[i]);
		assert_string_equal(said,
				    "ERR_WARM_UP id=w code=ECANCELED another request has come\n");
		assert_int_equal(jobs, 2);
		assert_true(s.busy);
		/* Its end, which is told of before that of what came then. */
		event(EVENT_WARMED, i % 2 ? ECANCELED : 0);
		assert_string_equal(said, "");
		assert_true(s.busy);
	}
	fresh(true, false);
	line("WARM_UP true");
	assert_string_equal(said, "ERR_WARM_UP code=ENODATA there is no machine to warm up\n");
	fresh(true, true);
	line("RESTORE a");
	line("WARM_UP true");
	assert_string_equal(said, "ERR_WARM_UP code=EBUSY restore in flight\n");
	event(EVENT_RESTORED, 0);
	line("SNAPSHOT_ASYNC b");
	event(EVENT_ACCEPTED, 0);
	line("WARM_UP true");
	assert_string_equal(said, "ERR_WARM_UP code=EBUSY a snapshot is being written\n");
	assert_int_equal(jobs, 2);
	/* No word of the seed's. */
	fresh(false, true);
	line("WARM_UP true");
	assert_int_equal(s.exit_code, 1);
}

/* What is in flight, what is asked, and the word of the refusal. */
static void test_in_flight(void **state)
{
	static const char *const first[] = {"RESTORE a id=1", "SNAPSHOT a id=1",
					    "SNAPSHOT_ASYNC a id=1"};
	static const char *const then[] = {"RESTORE b id=2", "SNAPSHOT b id=2",
					   "SNAPSHOT_ASYNC b id=2"};

	for (int hello = 0; hello < 2; hello++)
		for (int i = 0; i < 3; i++)
			for (int k = 0; k < 3; k++) {
				char want[128];

				fresh(hello, true);
				line(first[i]);
				line(then[k]);
				assert_int_equal(jobs, 1);
				snprintf(want, sizeof(want), "%s %s%s%s in flight\n",
					 k ? "ERR_SNAPSHOT" : "ERR_RESTORE",
					 hello ? "id=2 code=EBUSY " : "",
					 hello && !k ? "machine=kept " : "",
					 i ? "snapshot" : "restore");
				if (!hello && !k) {
					/* The seed has no word for it. */
					assert_string_equal(said, "");
					assert_true(s.shut && s.leaving && !s.over);
					assert_int_equal(s.exit_code, 1);
				} else {
					assert_string_equal(said, want);
					assert_false(s.leaving);
				}
			}
}

static void test_failed_restore(void **state)
{
	fresh(true, true);
	line("RESTORE a id=1");
	struct event e = {.kind = EVENT_FAILED, .kept = true};
	err_set(&e.err, ENOENT, "gone");
	said[0] = '\0';
	session_event(&s, &e, now);
	assert_string_equal(said, "ERR_RESTORE id=1 code=ENOENT machine=kept gone\n");
	line("RESTORE a id=1");
	event(EVENT_FAILED, EIO);
	assert_string_equal(said, "ERR_RESTORE id=1 code=EIO machine=none why not\n");
	assert_false(s.machine);

	fresh(false, true);
	line("RESTORE a");
	event(EVENT_FAILED, EIO);
	assert_string_equal(said, "");
	assert_true(s.shut);
	assert_int_equal(job.kind, JOB_LEAVE);
	event(EVENT_LEFT, 0);
	assert_true(s.over);
	assert_int_equal(s.exit_code, 1);
}

static void test_restore_deadline(void **state)
{
	fresh(true, true);
	line("RESTORE a id=1 deadline_ms=500");
	assert_int_equal(session_next_us(&s), now + S / 2);
	now += S / 2;
	said[0] = '\0';
	session_tick(&s, now);
	assert_string_equal(
		said, "ERR_RESTORE id=1 code=ETIMEDOUT no answer in time; restore in flight\n");
	line("RESTORE b id=2");
	assert_true(says("ERR_RESTORE id=2 code=EBUSY machine=kept restore in flight"));
	event(EVENT_RESTORED, 0);
	assert_string_equal(said, "SETTLED id=1 ok\n");
	line("RESTORE b");
	assert_int_equal(jobs, 2);

	/* The seed's supervisor times out by itself, and gets the late answer as it always did, */
	fresh(false, true);
	line("RESTORE a");
	now += 249 * S;
	session_tick(&s, now);
	assert_string_equal(said, "");
	event(EVENT_RESTORED, 0);
	assert_true(says("DONE 9"));
	/* unless there is to be none. */
	line("RESTORE a");
	assert_int_equal(session_next_us(&s), now + 250 * S);
	now += 250 * S;
	session_tick(&s, now);
	assert_string_equal(said, "");
	assert_true(s.shut && s.leaving && !s.over);
	assert_int_equal(s.exit_code, 1);
	now += 60 * S;
	session_tick(&s, now);
	assert_true(s.over && s.busy);
}

static void test_snapshot_deadline(void **state)
{
	for (int hello = 0; hello < 2; hello++) {
		fresh(hello, true);
		line("SNAPSHOT a");
		now += 59 * S;
		session_tick(&s, now);
		assert_string_equal(said, "");
		now += S;
		session_tick(&s, now);
		assert_true(
			says(hello ? "ERR_SNAPSHOT code=ETIMEDOUT " : "ERR_SNAPSHOT no answer"));
		line("SNAPSHOT b");
		assert_non_null(strstr(said, "snapshot in flight"));
		event(EVENT_SAVED, 0);
		assert_string_equal(said, hello ? "SETTLED ok\n" : "");
		line("SNAPSHOT b");
		assert_int_equal(jobs, 2);
		event(EVENT_FAILED, EIO);
		assert_true(says("ERR_SNAPSHOT"));
	}
	fresh(true, true);
	line("SNAPSHOT a id=1 deadline_ms=1");
	now += S;
	session_tick(&s, now);
	event(EVENT_FAILED, ENOSPC);
	assert_string_equal(said, "SETTLED id=1 code=ENOSPC why not\n");
}

/* A time-out that is not the answer's is one all the same, and nothing is left in flight by it. */
static void test_own_timeout(void **state)
{
	fresh(true, true);
	line("SNAPSHOT a id=1");
	event(EVENT_FAILED, ETIMEDOUT);
	assert_string_equal(said, "ERR_SNAPSHOT id=1 code=ETIMEDOUT why not\n"
				  "SETTLED id=1 code=ETIMEDOUT why not\n");
	line("SNAPSHOT_ASYNC a");
	event(EVENT_FAILED, ETIMEDOUT);
	assert_string_equal(said, "ERR_SNAPSHOT code=ETIMEDOUT why not\n"
				  "SETTLED code=ETIMEDOUT why not\n");
	line("RESTORE a id=2");
	event(EVENT_FAILED, ETIMEDOUT);
	assert_string_equal(said, "ERR_RESTORE id=2 code=ETIMEDOUT machine=none why not\n"
				  "SETTLED id=2 code=ETIMEDOUT why not\n");
	line("RESTORE a");
	assert_int_equal(jobs, 4);
	/* The seed's error has no code, and is the end of it. */
	fresh(false, true);
	line("SNAPSHOT a");
	event(EVENT_FAILED, ETIMEDOUT);
	assert_string_equal(said, "ERR_SNAPSHOT why not\n");
}

static void test_async(void **state)
{
	fresh(true, true);
	line("SNAPSHOT_ASYNC a id=1");
	event(EVENT_ACCEPTED, 0);
	assert_string_equal(said, "ACCEPTED pause_us=0 copied_bytes=0 id=1\n");
	now += S;
	assert_int_equal(session_next_us(&s), now);
	said[0] = '\0';
	session_tick(&s, now);
	assert_string_equal(said, "PROGRESS elapsed_ms=1000 copied_bytes=4096 id=1\n");
	line("SNAPSHOT_ASYNC b id=2");
	assert_true(says("ERR_SNAPSHOT id=2 code=EBUSY another"));
	/* Others go on meanwhile. */
	line("RESTORE r id=3");
	event(EVENT_RESTORED, 0);
	assert_true(says("DONE"));
	line("SNAPSHOT c id=4");
	event(EVENT_WRITTEN, 0);
	assert_true(says("DONE_SNAPSHOT_ASYNC bytes_written=0"));
	assert_non_null(strstr(said, " id=1\n"));
	event(EVENT_SAVED, 0);
	assert_non_null(strstr(said, " id=4\n"));

	fresh(false, true);
	line("SNAPSHOT_ASYNC a");
	event(EVENT_ACCEPTED, 0);
	assert_string_equal(said, "");
	assert_int_equal(session_next_us(&s), 0);
	event(EVENT_UNWRITTEN, EIO);
	assert_string_equal(said, "ERR_SNAPSHOT why not\n");
	line("SNAPSHOT_ASYNC a");
	event(EVENT_ACCEPTED, 0);
	event(EVENT_WRITTEN, 0);
	assert_string_equal(said, "DONE_SNAPSHOT_ASYNC bytes_written=0 capture_us=0 save_us=0\n");
}

/* Timed out before it was accepted: the seed heard the error, and hears no more of it. */
static void test_async_late(void **state)
{
	for (int hello = 0; hello < 2; hello++) {
		fresh(hello, true);
		line("SNAPSHOT_ASYNC a");
		now += 61 * S;
		session_tick(&s, now);
		assert_true(says("ERR_SNAPSHOT"));
		event(EVENT_ACCEPTED, 0);
		assert_string_equal(said, hello ? "SETTLED ok\n" : "");
		event(EVENT_WRITTEN, 0);
		if (hello)
			assert_true(says("DONE_SNAPSHOT_ASYNC"));
		else
			assert_string_equal(said, "");
	}
}

static void test_quit(void **state)
{
	fresh(true, true);
	line("QUIT id=q");
	assert_int_equal(job.kind, JOB_LEAVE);
	line("RESTORE a");
	assert_string_equal(said, "");
	event(EVENT_LEFT, 0);
	assert_string_equal(said, "BYE id=q\n");
	assert_true(s.over);
	assert_int_equal(s.exit_code, 0);

	/* What is in flight first. */
	fresh(false, true);
	line("SNAPSHOT a");
	line("QUIT");
	assert_int_equal(job.kind, JOB_SNAPSHOT);
	event(EVENT_SAVED, 0);
	assert_true(says("DONE_SNAPSHOT"));
	assert_int_equal(job.kind, JOB_LEAVE);
	event(EVENT_LEFT, 0);
	assert_string_equal(said, "");
	assert_true(s.over);

	/* Or not, when that takes too long. */
	fresh(true, true);
	line("SNAPSHOT a deadline_ms=3600000");
	line("QUIT deadline_ms=2000");
	assert_int_equal(session_next_us(&s), now + 2 * S);
	now += 2 * S;
	said[0] = '\0';
	session_tick(&s, now);
	assert_string_equal(said, "BYE\n");
	assert_true(s.over && s.busy);
}

static void test_end_of_file(void **state)
{
	fresh(true, true);
	session_quit(&s, now);
	session_quit(&s, now);
	assert_int_equal(jobs, 1);
	assert_false(s.shut);
	event(EVENT_LEFT, 0);
	assert_string_equal(said, "");
	assert_true(s.over);
	assert_int_equal(s.exit_code, 0);

	/* What is in flight is answered all the same: who has ended may still read. */
	fresh(true, true);
	line("SNAPSHOT a id=1");
	session_quit(&s, now);
	assert_int_equal(jobs, 1);
	event(EVENT_SAVED, 0);
	assert_true(says("DONE_SNAPSHOT"));
	assert_int_equal(job.kind, JOB_LEAVE);
}

static void test_no_request(void **state)
{
	static const char *const lines[] = {"PING", "RESTORE a\x01", "RESTORE", "QUIT"};

	for (size_t i = 0; i < 4; i++) {
		fresh(false, true);
		line(lines[i]);
		assert_string_equal(said, "");
		assert_true(s.leaving);
		assert_int_equal(s.exit_code, i < 3);
	}
	fresh(true, true);
	session_no_line(&s, EMSGSIZE, now);
	assert_true(says("ERR_UNKNOWN code=EMSGSIZE"));
	said[0] = '\0';
	session_no_line(&s, ETIMEDOUT, now);
	assert_true(says("ERR_UNKNOWN code=ETIMEDOUT"));
	fresh(false, true);
	session_no_line(&s, EMSGSIZE, now);
	assert_int_equal(s.exit_code, 1);
}

static void test_start(void **state)
{
	for (int hello = 0; hello < 2; hello++)
		for (int bake = 0; bake < 2; bake++)
			for (int fails = 0; fails < 2; fails++) {
				struct event e = {.kind = fails	 ? EVENT_FAILED
							  : bake ? EVENT_BAKED
								 : EVENT_RESTORED,
						  .how = "new",
						  .us = 7};

				said[0] = '\0';
				session_init(&s, &ops, NULL, "id", "/run/x");
				s.baking = bake;
				s.ready_ms = 7000;
				session_begin(&s, true, now);
				assert_string_equal(said, "READY\n");
				assert_int_equal(job.kind, JOB_START);
				s.hello = hello;
				assert_int_equal(session_next_us(&s), now + (bake ? 257 : 250) * S);
				line("SNAPSHOT a");
				assert_non_null(strstr(said, "restore in flight"));
				if (fails)
					err_set(&e.err, ETIMEDOUT, "no");
				said[0] = '\0';
				session_event(&s, &e, now);
				assert_int_equal(s.machine, !fails);
				if (fails && !hello)
					assert_true(s.shut);
				else
					assert_true(says(!fails && bake ? "BAKE_READY\n"
							 : !fails	? "DONE 7 reset_vsock_us=0"
							 : bake ? "ERR_BAKE code=ETIMEDOUT no\n"
								: "ERR_RESTORE code=ETIMEDOUT "
								  "machine=none no\n"));
			}
}

/* A start that is stuck is over for the seed; the extended one hears when it is settled. */
static void test_start_deadline(void **state)
{
	for (int hello = 0; hello < 2; hello++)
		for (int bake = 0; bake < 2; bake++) {
			session_init(&s, &ops, NULL, "id", "/run/x");
			s.baking = bake;
			session_begin(&s, true, now);
			s.hello = hello;
			said[0] = '\0';
			now += 250 * S;
			session_tick(&s, now);
			if (!hello) {
				assert_string_equal(said, "");
				assert_true(s.shut && s.leaving);
				continue;
			}
			assert_true(says(bake ? "ERR_BAKE code=ETIMEDOUT no answer in time"
					      : "ERR_RESTORE code=ETIMEDOUT no answer in time"));
			event(bake ? EVENT_BAKED : EVENT_RESTORED, 0);
			assert_string_equal(said, "SETTLED ok\n");
			assert_true(s.machine);
		}
}

static void test_ended(void **state)
{
	fresh(true, true);
	event(EVENT_ENDED, 0);
	assert_string_equal(said, "ENDED how=shutdown\n");
	line("SNAPSHOT a");
	assert_true(says("ERR_SNAPSHOT code=ENODATA"));
	fresh(true, true);
	event(EVENT_ENDED, EIO);
	assert_string_equal(said, "ENDED how=shutdown why=\"why\\x0anot\"\n");
	fresh(false, true);
	event(EVENT_ENDED, 0);
	assert_string_equal(said, "");
	assert_false(s.machine);
}

/* A line is bounded whatever an error has to say. */
static void test_long_errors(void **state)
{
	struct event e = {.kind = EVENT_FAILED};

	memset(e.err.msg, '\x01', sizeof(e.err.msg) - 1);
	e.err.code = EIO;
	fresh(true, true);
	line("RESTORE a");
	said[0] = '\0';
	session_event(&s, &e, now);
	assert_true(strlen(said) <= LINE_LEN_MAX + 1);
	e.kind = EVENT_ENDED;
	e.ended = "failed";
	said[0] = '\0';
	session_event(&s, &e, now);
	assert_true(strlen(said) <= LINE_LEN_MAX + 1 && strlen(said) > 4000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_no_machine),
					   cmocka_unit_test(test_port),
					   cmocka_unit_test(test_extended_answers),
					   cmocka_unit_test(test_warm_up),
					   cmocka_unit_test(test_in_flight),
					   cmocka_unit_test(test_failed_restore),
					   cmocka_unit_test(test_restore_deadline),
					   cmocka_unit_test(test_snapshot_deadline),
					   cmocka_unit_test(test_own_timeout),
					   cmocka_unit_test(test_async),
					   cmocka_unit_test(test_async_late),
					   cmocka_unit_test(test_quit),
					   cmocka_unit_test(test_end_of_file),
					   cmocka_unit_test(test_no_request),
					   cmocka_unit_test(test_start),
					   cmocka_unit_test(test_start_deadline),
					   cmocka_unit_test(test_ended),
					   cmocka_unit_test(test_long_errors)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
