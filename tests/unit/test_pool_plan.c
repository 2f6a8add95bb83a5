/* runner/pool/plan.h: how many machines to start or end; runner/pool/claims.h: requests of clients.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "runner/pool/claims.h"
#include "runner/pool/plan.h"
#include "smfs/base/num.h"

static struct plan_in roomy(unsigned min, unsigned max)
{
	return (struct plan_in){.min = min, .max = max, .available = 100 * GIB, .vm_bytes = GIB};
}

static void test_start(void **state)
{
	struct plan_in in = roomy(2, 5);

	assert_int_equal(plan(&in).start, 2);
	in.coming = 1;
	assert_int_equal(plan(&in).start, 1);
	in.warm = 1;
	assert_int_equal(plan(&in).start, 0);
	/* Those that are claimed are replaced, up to max. */
	in = roomy(2, 5);
	in.claimed = 2;
	assert_int_equal(plan(&in).start, 2);
	in.claimed = 4;
	assert_int_equal(plan(&in).start, 1);
	in.claimed = 5;
	assert_int_equal(plan(&in).start, 0);
	/* Whoever waits is to have one beside min. */
	in = roomy(1, 8);
	in.waiting = 3;
	assert_int_equal(plan(&in).start, 4);
	in.waiting = 100;
	assert_int_equal(plan(&in).start, 8);
	in = roomy(0, 8);
	assert_int_equal(plan(&in).start, 0);
}

static void test_end(void **state)
{
	struct plan_in in = roomy(2, 8);

	in.warm = 6;
	assert_int_equal(plan(&in).end, 0);
	in.idle = 6;
	assert_int_equal(plan(&in).end, 4);
	in.idle = 1;
	assert_int_equal(plan(&in).end, 1);
	in.idle = 6;
	in.waiting = 3;
	assert_int_equal(plan(&in).end, 1);
	assert_int_equal(plan(&in).start, 0);
}

static void test_memory(void **state)
{
	struct plan_in in = roomy(8, 8);

	in.available = 5 * GIB;
	in.reserve = GIB;
	assert_int_equal(plan(&in).start, 4);
	assert_int_equal(plan(&in).short_of_memory, 4);
	/* What those that run may still take is as good as taken. */
	in.warm = 2;
	in.promised = 2 * GIB;
	assert_int_equal(plan(&in).start, 2);
	assert_int_equal(plan(&in).short_of_memory, 4);
	in.available = 3 * GIB;
	assert_int_equal(plan(&in).start, 0);
	in.available = 0;
	assert_int_equal(plan(&in).start, 0);
}

static int parse(const char *text, struct ask_line *q)
{
	return ask_parse(text, strlen(text), q, NULL);
}

static void test_ask(void **state)
{
	static const char *const bad[] = {"CLAIM x",	      "CLAIM =1",
					  "CLAIM id=",	      "CLAIM id=a/b",
					  "CLAIM keep=2",     "CLAIM deadline_ms=0",
					  "RELEASE",	      "RELEASE claim=0",
					  "RELEASE claim=-1", "RELEASE vm=\"",
					  "STATUS \"a\"b",    "RELEASE claim=1 vm=a"};
	struct ask_line q;

	assert_int_equal(parse("", &q), 0);
	assert_int_equal(q.what, ASK_NONE);
	assert_int_equal(parse("CLAIM id=a deadline_ms=5 keep=1 later=\"x y\"", &q), 0);
	assert_int_equal(q.what, ASK_CLAIM);
	assert_string_equal(q.id, "a");
	assert_int_equal(q.deadline_ms, 5);
	assert_true(q.keep);
	assert_int_equal(parse("CLAIM id=a id=/ deadline_ms=5 deadline_ms=x keep=0 keep=1", &q), 0);
	assert_string_equal(q.id, "a");
	assert_int_equal(q.deadline_ms, 5);
	assert_false(q.keep);
	assert_int_equal(parse("RELEASE claim=1 claim=2 "
			       "a_key_of_more_than_thirty_one_letters=1",
			       &q),
			 0);
	assert_int_equal(q.claim, 1);
	assert_int_equal(parse(" RELEASE  claim=18446744073709551615 ", &q), 0);
	assert_int_equal(q.claim, UINT64_MAX);
	assert_int_equal(parse("RELEASE vm=abc", &q), 0);
	assert_string_equal(q.vm, "abc");
	assert_int_equal(parse("STATUS id=1", &q), 0);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(parse(bad[i], &q), -EINVAL);
	assert_int_equal(parse("status", &q), -ENOSYS);
	assert_int_equal(parse("id=1", &q), -ENOSYS);
	assert_int_equal(parse("CLAIM\t", &q), -EILSEQ);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_start), cmocka_unit_test(test_end),
					   cmocka_unit_test(test_memory),
					   cmocka_unit_test(test_ask)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
