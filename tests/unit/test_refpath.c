/* Image references as paths, and the listing of an open directory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "smfs/mount/listing.h"
#include "smfs/mount/refpath.h"

static void join_puts_a_slash_between(void **state)
{
	char out[SMFS_REF_MAX + 1];

	assert_true(ref_join("", "docker.io", out));
	assert_string_equal(out, "docker.io");
	assert_true(ref_join("docker.io", "library", out));
	assert_string_equal(out, "docker.io/library");
	assert_true(ref_join("docker.io", "", out));
	assert_string_equal(out, "docker.io/");
}

static void join_refuses_what_is_too_long(void **state)
{
	char out[SMFS_REF_MAX + 1], big[SMFS_REF_MAX + 2];

	memset(big, 'a', sizeof(big));
	big[SMFS_REF_MAX] = '\0';
	assert_true(ref_join("", big, out));
	assert_false(ref_join("x", big, out));
	big[SMFS_REF_MAX - 2] = '\0';
	assert_true(ref_join("x", big, out));
	assert_int_equal(strlen(out), SMFS_REF_MAX);
}

static void child_is_the_next_component(void **state)
{
	char out[SMFS_NAME_MAX + 1];
	bool leaf;

	assert_true(ref_child("", "localhost:5000/a/b:1", out, &leaf));
	assert_string_equal(out, "localhost:5000");
	assert_false(leaf);
	assert_true(ref_child("localhost:5000", "localhost:5000/a/b:1", out, &leaf));
	assert_string_equal(out, "a");
	assert_false(leaf);
	assert_true(ref_child("localhost:5000/a", "localhost:5000/a/b:1", out, &leaf));
	assert_string_equal(out, "b:1");
	assert_true(leaf);
}

static void child_refuses_what_is_not_below(void **state)
{
	char out[SMFS_NAME_MAX + 1], big[SMFS_NAME_MAX + 2];
	bool leaf;

	assert_false(ref_child("docker.io", "docker.io.evil/a:1", out, &leaf));
	assert_false(ref_child("docker.io", "docker.i", out, &leaf));
	assert_false(ref_child("docker.io", "docker.io", out, &leaf));
	assert_false(ref_child("docker.io", "docker.io/", out, &leaf));
	assert_false(ref_child("docker.io", "docker.io//a:1", out, &leaf));
	assert_false(ref_child("", "", out, &leaf));
	memset(big, 'a', sizeof(big));
	big[sizeof(big) - 1] = '\0';
	assert_false(ref_child("", big, out, &leaf));
}

static void skip_sorts_between_a_directory_and_its_sibling(void **state)
{
	char out[SMFS_REF_MAX + 1];

	assert_true(ref_skip("r", "a", out));
	assert_true(strcmp("r/a/z:1", out) < 0);
	assert_true(strcmp("r/a/~~~", out) < 0);
	/* '0' is the first byte after '/'. */
	assert_true(strcmp(out, "r/a0:1") < 0);
	assert_true(strcmp(out, "r/b:1") < 0);
}

static void listing_keeps_names_in_order(void **state)
{
	struct listing l = {0};
	char name[32];

	for (int i = 0; i < 1000; i++) {
		snprintf(name, sizeof(name), "name-%d", i);
		assert_int_equal(listing_add(&l, name, (uint32_t)i, NULL), 0);
	}
	assert_int_equal(l.count, 1000);
	for (int i = 0; i < 1000; i++) {
		snprintf(name, sizeof(name), "name-%d", i);
		assert_string_equal(listing_name(&l, (size_t)i), name);
		assert_int_equal(l.items[i].mode, i);
	}
	listing_free(&l);
	assert_int_equal(l.count, 0);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(join_puts_a_slash_between),
		cmocka_unit_test(join_refuses_what_is_too_long),
		cmocka_unit_test(child_is_the_next_component),
		cmocka_unit_test(child_refuses_what_is_not_below),
		cmocka_unit_test(skip_sorts_between_a_directory_and_its_sibling),
		cmocka_unit_test(listing_keeps_names_in_order),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
