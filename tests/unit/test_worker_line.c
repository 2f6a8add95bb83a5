/* runner/worker/line.h: lines of a supervisor's as requests, in both dialects. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "runner/worker/line.h"

static struct request q;
static struct err err;

static int parse(const char *text, bool extended)
{
	err_clear(&err);
	return line_parse(text, strlen(text), extended, &q, &err);
}

static void test_verbs(void **state)
{
	static const struct {
		const char *text;
		enum verb verb;
	} good[] = {{"", VERB_NONE},
		    {"   ", VERB_NONE},
		    {"QUIT", VERB_QUIT},
		    {"  QUIT  ", VERB_QUIT},
		    {"HELLO 1", VERB_HELLO},
		    {"RESTORE a", VERB_RESTORE},
		    {"SNAPSHOT a", VERB_SNAPSHOT},
		    {"SNAPSHOT_ASYNC a", VERB_SNAPSHOT_ASYNC}};
	static const char *const bad[] = {"quit",      "QUITE", "QUI",	 "RESTOREa",
					  "SNAPSHOT_", "ASYNC", "READY", "\"QUIT\""};

	for (int e = 0; e < 2; e++) {
		for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++) {
			assert_int_equal(parse(good[i].text, e), 0);
			assert_int_equal(q.verb, good[i].verb);
		}
		for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
			assert_int_equal(parse(bad[i], e), -ENOSYS);
			assert_int_equal(q.verb, VERB_NONE);
		}
	}
}

/* A request of the extended dialect alone. */
static void test_warm_up(void **state)
{
	assert_int_equal(parse("WARM_UP true", false), -ENOSYS);
	assert_int_equal(parse("WARM_UP \"/opt/a b\" deadline_ms=5 id=w", true), 0);
	assert_int_equal(q.verb, VERB_WARM_UP);
	assert_string_equal(q.path, "/opt/a b");
	assert_int_equal(q.deadline_ms, 5);
	assert_string_equal(q.id, "w");
	assert_int_equal(parse("WARM_UP", true), -EINVAL);
	assert_string_equal(err.msg, "a program is missing");
}

static void test_defaults(void **state)
{
	assert_int_equal(parse("RESTORE /a/b", false), 0);
	assert_string_equal(q.path, "/a/b");
	assert_string_equal(q.id, "");
	assert_string_equal(q.base, "");
	assert_int_equal(q.deadline_ms, 60000);
	assert_int_equal(q.idle_ms, 1000);
	assert_int_equal(q.clock, CLOCK_ADVANCE);
}

static void test_seed_ignores(void **state)
{
	assert_int_equal(
		parse("RESTORE a id=1 deadline_ms=x clock=never egress_policy=deny", false), 0);
	assert_string_equal(q.id, "");
	assert_int_equal(q.deadline_ms, 60000);
	assert_int_equal(parse("SNAPSHOT a word base=b = base=c X=1 base", false), 0);
	assert_string_equal(q.base, "b");
	assert_int_equal(parse("SNAPSHOT a base=b base=", false), 0);
	/* A quote is a byte like any other. */
	assert_int_equal(parse("SNAPSHOT \"a base=b\"", false), 0);
	assert_string_equal(q.path, "\"a");
	assert_string_equal(q.base, "b\"");
	assert_int_equal(parse("RESTORE a=b", false), 0);
	assert_string_equal(q.path, "a=b");
}

static void test_extended(void **state)
{
	assert_int_equal(
		parse("SNAPSHOT \"a \\\"b\\\\\\x20c\" base=\"d e\" id=x.Y-9_ deadline_ms=5 idle_ms=0 new=\"z z\"",
		      true),
		0);
	assert_string_equal(q.path, "a \"b\\ c");
	assert_string_equal(q.base, "d e");
	assert_string_equal(q.id, "x.Y-9_");
	assert_int_equal(q.deadline_ms, 5);
	assert_int_equal(q.idle_ms, 0);
	assert_int_equal(parse("RESTORE a clock=freeze id=1 id=2", true), 0);
	assert_int_equal(q.clock, CLOCK_FREEZE);
	assert_string_equal(q.id, "1");
	assert_int_equal(parse("QUIT id=7 deadline_ms=1", true), 0);
	assert_string_equal(q.id, "7");
	/* HELLO is extended whoever says it. */
	assert_int_equal(parse("HELLO 3 id=h", false), 0);
	assert_int_equal(q.version, 3);
	assert_string_equal(q.id, "h");
}

static void test_extended_refuses(void **state)
{
	static const char *const bad[] = {"RESTORE",
					  "RESTORE ",
					  "RESTORE \"a",
					  "RESTORE \"a\\",
					  "RESTORE \"a\\n\"",
					  "RESTORE \"\\x0\"",
					  "RESTORE \"\\x00\"",
					  "RESTORE \"\\xg0\"",
					  "RESTORE \"a\"b",
					  "RESTORE a\"b\"",
					  "RESTORE \"\"",
					  "RESTORE a b",
					  "RESTORE a =b",
					  "RESTORE a k=",
					  "RESTORE a k=\"",
					  "RESTORE a id=",
					  "RESTORE a id=a/b",
					  "RESTORE a id=\"a b\"",
					  "RESTORE a clock=1",
					  "RESTORE a deadline_ms=0",
					  "RESTORE a deadline_ms=3600001",
					  "RESTORE a deadline_ms=1x",
					  "SNAPSHOT a idle_ms=60001",
					  "HELLO",
					  "HELLO 0",
					  "HELLO x",
					  "HELLO 1 x",
					  "QUIT x"};

	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		assert_int_equal(parse(bad[i], true), -EINVAL);
		/* Whose error it is is known all the same. */
		assert_int_not_equal(q.verb, VERB_NONE);
		assert_true(err.msg[0]);
	}
	assert_int_equal(parse("RESTORE a id=5 junk", true), -EINVAL);
	assert_string_equal(q.id, "5");
}

static void test_limits(void **state)
{
	static char line[LINE_LEN_MAX + 2];

	memset(line, 'a', sizeof(line));
	memcpy(line, "RESTORE ", 8);
	assert_int_equal(line_parse(line, 8 + 4095, true, &q, &err), 0);
	assert_int_equal(strlen(q.path), 4095);
	assert_int_equal(line_parse(line, 8 + 4096, true, &q, &err), -EINVAL);
	memcpy(line, "RESTORE b k=", 12);
	for (int e = 0; e < 2; e++)
		assert_int_equal(line_parse(line, LINE_LEN_MAX, e, &q, &err), 0);
	assert_int_equal(line_parse(line, LINE_LEN_MAX + 1, false, &q, &err), -EMSGSIZE);
	assert_int_equal(q.verb, VERB_NONE);
}

static void test_not_text(void **state)
{
	for (int b = 0; b < 256; b++) {
		char line[] = "RESTORE ab";
		const bool text = b >= 0x20 && b != 0x7f;

		line[9] = (char)b;
		for (int e = 0; e < 2; e++) {
			const int r = line_parse(line, 10, e, &q, &err);

			if (!text)
				assert_int_equal(r, -EILSEQ);
			else
				assert_int_equal(r, e && b == '"' ? -EINVAL : 0);
		}
	}
}

static void test_quote(void **state)
{
	static const struct {
		const char *raw, *word;
	} t[] = {{"a", "a"},	     {"/a/b=c", "/a/b=c"},     {"", "\"\""},
		 {"a b", "\"a b\""}, {"\"\\", "\"\\\"\\\\\""}, {"a\nb\x7f", "\"a\\x0ab\\x7f\""}};
	char out[64], line[128];

	for (size_t i = 0; i < sizeof(t) / sizeof(*t); i++) {
		line_quote(t[i].raw, out);
		assert_string_equal(out, t[i].word);
		if (!t[i].raw[0])
			continue;
		snprintf(line, sizeof(line), "RESTORE %s", out);
		assert_int_equal(parse(line, true), 0);
		assert_string_equal(q.path, t[i].raw);
	}
}

static void test_errors(void **state)
{
	for (int code = 1; code < 134; code++) {
		const char *name = line_error_name(code);

		/* 41 and 58 are no errors. */
		assert_int_equal(line_error_code(name, strlen(name)),
				 code == 41 || code == 58 ? EIO : code);
	}
	assert_string_equal(line_error_name(ENOTSUP), "EOPNOTSUPP");
	assert_string_equal(line_error_name(0), "EIO");
	assert_string_equal(line_error_name(4000), "EIO");
	assert_int_equal(line_error_code("ENOENTRY", 6), ENOENT);
	assert_int_equal(line_error_code("ENOENTRY", 8), EIO);
	assert_int_equal(line_error_code("", 0), EIO);
}

/* What is said to have room fits the longest requests, and parses as what it was. */
static void test_check_word(void **state)
{
	char text[LINE_PATH_MAX + 1], word[4 * LINE_PATH_MAX + 3], line[LINE_LEN_MAX + 1];
	size_t room = 0;

	assert_int_equal(line_check_word("x", "", &err), 0);
	memset(text, 'a', LINE_PATH_MAX);
	text[LINE_PATH_MAX] = '\0';
	assert_int_equal(line_check_word("x", text, &err), -EINVAL);
	assert_string_equal(err.msg, "x: 4096 bytes, at most 4095 fit a request");
	text[LINE_PATH_MAX - 1] = '\0';
	assert_int_equal(line_check_word("x", text, &err), 0);
	memset(text, 1, LINE_PATH_MAX - 1);
	assert_int_equal(line_check_word("x", text, &err), -EINVAL);
	assert_string_equal(err.msg, "x: 16382 bytes once what is no text in it is quoted, at most "
				     "16128 fit a request");
	while (line_check_word("x", text, &err) < 0)
		text[LINE_PATH_MAX - 2 - room++] = '\0';
	line_quote(text, word);
	const int n = snprintf(line, sizeof(line),
			       "SNAPSHOT_ASYNC %s id=abcdefghijklmnopqrstuvwxyz012345 "
			       "deadline_ms=3600000 idle_ms=60000",
			       word);
	assert_in_range(n, LINE_LEN_MAX - 256, LINE_LEN_MAX);
	assert_int_equal(parse(line, true), 0);
	assert_string_equal(q.path, text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_verbs),	 cmocka_unit_test(test_warm_up),
		cmocka_unit_test(test_defaults), cmocka_unit_test(test_seed_ignores),
		cmocka_unit_test(test_extended), cmocka_unit_test(test_extended_refuses),
		cmocka_unit_test(test_limits),	 cmocka_unit_test(test_not_text),
		cmocka_unit_test(test_quote),	 cmocka_unit_test(test_check_word),
		cmocka_unit_test(test_errors)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
