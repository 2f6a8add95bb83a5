/* runner/control/requests.h while the guest stands still until a snapshot of it is written, past
 * the limit on copies: it answers nobody, and the thread that serves is who lets it go on. */
#include "tests/unit/fake_vmm.h"

#include "runner/control/requests.h"

/* Seconds less than any time-out for a guest that does not answer. */
#define PROMPT_MS 5000

struct asked {
	struct fake_vmm *f;
	json_t *request, *reply;
	struct err err;
	int r;
};

static int begin(void **state)
{
	int r = fake_begin(state, vmm_requests);
	struct fake_vmm *f = *state;

	/* As throttle() leaves it. */
	f->vm->paused = true;
	f->v.save.active = f->v.save.throttled = true;
	f->v.save.live.fd = -1;
	f->v.save.last = json_pack("{s:s, s:s}", "name", "warm", "state", "writing");
	return r;
}

static int end(void **state)
{
	struct fake_vmm *f = *state;

	json_decref(f->v.save.last);
	return fake_end(state);
}

static void *ask_main(void *arg)
{
	struct asked *a = arg;

	a->r = control_call(a->f->control, a->request, LONG_MS, &a->reply, NULL, &a->err);
	eventfd_write(a->f->served_fd, 1);
	return NULL;
}

static struct asked ask(struct fake_vmm *f, json_t *request)
{
	struct asked a = {.f = f, .request = request, .err = ERR_INIT};
	const int64_t began = monotonic_ms();
	struct err err = ERR_INIT;
	pthread_t thread;
	eventfd_t n;

	assert_int_equal(pthread_create(&thread, NULL, ask_main, &a), 0);
	/* This thread's, as the watch that ends the wait is. */
	assert_int_equal(control_serve(f->v.control, f->served_fd, &err), 0);
	assert_true(monotonic_ms() - began < PROMPT_MS);
	pthread_join(thread, NULL);
	assert_int_equal(eventfd_read(f->served_fd, &n), 0);
	return a;
}

static void info_says_that_it_waits(void **state)
{
	struct asked a = ask(*state, json_pack("{s:s}", "op", "info"));

	assert_int_equal(a.r, 0);
	assert_string_equal(
		json_string_value(json_object_get(json_object_get(a.reply, "guest"), "error")),
		"the guest waits until snapshot warm of it is written");
	json_decref(a.reply);
}

static void a_fork_is_refused_at_once(void **state)
{
	struct asked a = ask(*state, json_pack("{s:s, s:i}", "op", "fork", "n", 1));

	assert_int_equal(a.r, -EBUSY);
	assert_string_equal(a.err.msg,
			    "fork w: the guest waits until snapshot warm of it is written");
}

static void one_that_is_to_stop_goes_on_to_end_in_order(void **state)
{
	struct fake_vmm *f = *state;
	struct asked a = ask(f, json_pack("{s:s, s:i}", "op", "stop", "grace_ms", LONG_MS));

	assert_int_equal(a.r, 0);
	assert_true(json_is_true(json_object_get(a.reply, "graceful")));
	assert_false(f->v.save.throttled || f->vm->paused);
	assert_int_equal(f->v.save.limit_bytes, UINT64_MAX);
	json_decref(a.reply);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(info_says_that_it_waits, begin, end),
		cmocka_unit_test_setup_teardown(a_fork_is_refused_at_once, begin, end),
		cmocka_unit_test_setup_teardown(one_that_is_to_stop_goes_on_to_end_in_order, begin,
						end),
	};

	return cmocka_run_group_tests(tests, fake_setup, fake_teardown);
}
