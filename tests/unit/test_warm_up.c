/* runner/worker/warm_up.h, of a machine that is no more than its directory, its control socket and
 * an agent of the test's own: what ends the program that runs in it. */
#include "tests/unit/fake_vmm.h"

#include "runner/worker/warm_up.h"

static int op_served(void *arg, struct control_request *rq, const json_t *body, json_t *reply,
		     struct err *err)
{
	struct fake_vmm *m = arg;

	return eventfd_write(m->served_fd, 1);
}

static const struct control_op ops[] = {{"served", op_served}, {0}};

static int begin(void **state)
{
	return fake_begin(state, ops);
}

static void say(int fd, const char *text)
{
	assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}

/* A connection that the server has taken, and that has asked nothing yet. */
static int a_connected_client(struct fake_vmm *m)
{
	struct err err = ERR_INIT;
	int fd = unix_connect(m->control, LONG_MS, &err);
	cleanup_fd int last = unix_connect(m->control, LONG_MS, &err);
	eventfd_t n;

	assert_true(fd >= 0 && last >= 0);
	/* They are taken in the order they came. */
	say(last, "{\"op\": \"served\"}\n");
	assert_int_equal(control_serve(m->v.control, m->served_fd, &err), 0);
	assert_int_equal(eventfd_read(m->served_fd, &n), 0);
	return fd;
}

struct asker {
	struct fake_vmm *m;
	int fd; /* whom it speaks by; -1: it connects */
};

/* Asks once the program runs. */
static void *ask(void *arg)
{
	struct asker *a = arg;
	eventfd_t n;

	eventfd_read(a->m->running_fd, &n);
	if (a->fd < 0)
		a->fd = unix_connect(a->m->control, LONG_MS, NULL);
	(void)!send(a->fd, "{\"op\": \"served\"}\n", 17, MSG_NOSIGNAL);
	return NULL;
}

static void is_ended_by(struct fake_vmm *m, int fd)
{
	struct asker a = {.m = m, .fd = fd};
	const int64_t began = monotonic_ms();
	struct err err = ERR_INIT;
	pthread_t thread;
	char c;

	assert_int_equal(pthread_create(&thread, NULL, ask, &a), 0);
	assert_int_equal(warm_up(&m->v, "endless", LONG_MS, -1, &err), -ECANCELED);
	assert_string_equal(err.msg, "another request has come");
	assert_true(monotonic_ms() - began < LONG_MS / 2);
	pthread_join(thread, NULL);
	/* And it is served then. */
	assert_int_equal(control_serve(m->v.control, m->served_fd, &err), 0);
	assert_int_equal(recv(a.fd, &c, 1, 0), 1);
	assert_int_equal(c, '{');
	close(a.fd);
}

static void whoever_connects_and_asks_ends_it(void **state)
{
	is_ended_by(*state, -1);
}

static void whoever_is_connected_and_asks_ends_it(void **state)
{
	is_ended_by(*state, a_connected_client(*state));
}

static void who_is_connected_and_asks_nothing_does_not(void **state)
{
	struct fake_vmm *m = *state;
	int fd = a_connected_client(m);
	struct err err = ERR_INIT;

	m->ends = true;
	assert_int_equal(warm_up(&m->v, "true", LONG_MS, -1, &err), 0);
	assert_int_equal(m->runs, 2);
	close(fd);
}

static void between_its_runs_the_guest_comes_to_rest(void **state)
{
	struct fake_vmm *m = *state;
	struct err err = ERR_INIT;
	const uint64_t t = monotonic_us();

	m->ends = true;
	assert_int_equal(warm_up(&m->v, "true", LONG_MS, -1, &err), 0);
	assert_int_equal(m->runs, 2);
	assert_true(monotonic_us() - t >= 150000);
}

/* Of little time most is left for the program. */
static void a_short_time_is_not_spent_on_that(void **state)
{
	struct fake_vmm *m = *state;
	struct err err = ERR_INIT;
	int r = -1;

	m->ends = true;
	/* Until nobody had to wait for a processor for so long. */
	for (int i = 0; i < 20 && r < 0; i++)
		r = warm_up(&m->v, "true", 150, -1, &err);
	assert_int_equal(r, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(whoever_connects_and_asks_ends_it, begin, fake_end),
		cmocka_unit_test_setup_teardown(whoever_is_connected_and_asks_ends_it, begin,
						fake_end),
		cmocka_unit_test_setup_teardown(who_is_connected_and_asks_nothing_does_not, begin,
						fake_end),
		cmocka_unit_test_setup_teardown(between_its_runs_the_guest_comes_to_rest, begin,
						fake_end),
		cmocka_unit_test_setup_teardown(a_short_time_is_not_spent_on_that, begin, fake_end),
	};

	return cmocka_run_group_tests(tests, fake_setup, fake_teardown);
}
