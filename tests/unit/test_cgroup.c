/* runner/control/cgroup.h over a tree of the test's own: limits of a group and of those above it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runner/control/cgroup.h"

static char root[] = "/tmp/smtest.cgroup.XXXXXX";

static void put(const char *group, const char *file, const char *text)
{
	char path[256];

	snprintf(path, sizeof(path), "%s%s/%s", root, group, file);
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	close(fd);
}

static int setup(void **state)
{
	char path[256];

	strcpy(root + sizeof(root) - 7, "XXXXXX");
	assert_non_null(mkdtemp(root));
	snprintf(path, sizeof(path), "%s/a", root);
	assert_int_equal(mkdir(path, 0700), 0);
	snprintf(path, sizeof(path), "%s/a/b", root);
	assert_int_equal(mkdir(path, 0700), 0);
	return 0;
}

static int teardown(void **state)
{
	char command[256];

	snprintf(command, sizeof(command), "rm -r %s", root);
	return system(command);
}

static void the_lowest_of_all_above_counts(void **state)
{
	assert_int_equal(cgroup_lowest(root, "/a/b", "memory.max"), UINT64_MAX);
	put("/a/b", "memory.max", "max\n");
	assert_int_equal(cgroup_lowest(root, "/a/b", "memory.max"), UINT64_MAX);
	put("/a", "memory.max", "5000\n");
	assert_int_equal(cgroup_lowest(root, "/a/b", "memory.max"), 5000);
	put("/a/b", "memory.max", "7000\n");
	assert_int_equal(cgroup_lowest(root, "/a/b", "memory.max"), 5000);
	put("", "memory.max", "100\n");
	assert_int_equal(cgroup_lowest(root, "/a/b", "memory.max"), 100);
	assert_int_equal(cgroup_lowest(root, "", "memory.max"), 100);
	put("/a/b", "memory.max", "no number\n");
	assert_int_equal(cgroup_lowest(root, "/a/b", "memory.max"), 100);
}

static void room_is_what_is_not_taken_or_would_be_given_back(void **state)
{
	assert_int_equal(cgroup_room(root, "/a/b"), UINT64_MAX);
	put("/a/b", "memory.max", "10000\n");
	assert_int_equal(cgroup_room(root, "/a/b"), 10000);
	put("/a/b", "memory.current", "9000\n");
	assert_int_equal(cgroup_room(root, "/a/b"), 1000);
	put("/a/b", "memory.stat",
	    "anon 1000\nfile 8000\nshmem 10\ninactive_anon 1\nactive_anon 2\n"
	    "inactive_file 3000\nactive_file 1000\n");
	assert_int_equal(cgroup_room(root, "/a/b"), 5000);
	put("/a/b", "memory.high", "9000\n");
	assert_int_equal(cgroup_room(root, "/a/b"), 4000);
	put("/a/b", "memory.high", "max\n");
	/* The others of a group take of it as well. */
	put("/a", "memory.max", "20000\n");
	put("/a", "memory.current", "19000\n");
	assert_int_equal(cgroup_room(root, "/a/b"), 1000);
	/* Read one after the other, they need not agree. */
	put("/a", "memory.current", "21000\n");
	assert_int_equal(cgroup_room(root, "/a/b"), 0);
	put("/a", "memory.stat", "inactive_file 50000\n");
	assert_int_equal(cgroup_room(root, "/a/b"), 5000);
}

static const char *group_of(const char *text)
{
	static char group[64];
	struct err err = ERR_INIT;
	char *out = NULL;

	if (cgroup_parse(text, &out, &err) < 0) {
		snprintf(group, sizeof(group), "E%d", err.code);
		return group;
	}
	snprintf(group, sizeof(group), "%s", out);
	free(out);
	return group;
}

static void a_group_above_the_root_is_told_from_one_whose_name_begins_with_dots(void **state)
{
	char outside[8];

	snprintf(outside, sizeof(outside), "E%d", EXDEV);
	assert_string_equal(group_of("1:cpu:/x\n0::/system.slice/a\n"), "/system.slice/a");
	assert_string_equal(group_of("0::/a"), "/a");
	assert_string_equal(group_of("0::/\n"), "");
	assert_string_equal(group_of("0::/..\n"), outside);
	assert_string_equal(group_of("0::/../..\n"), outside);
	assert_string_equal(group_of("0::/../x\n"), outside);
	assert_string_equal(group_of("0::/..foo\n"), "/..foo");
	assert_string_equal(group_of("0::/.../x\n"), "/.../x");
	assert_string_equal(group_of("0::/x/..foo\n"), "/x/..foo");
	snprintf(outside, sizeof(outside), "E%d", ENOTSUP);
	assert_string_equal(group_of("1:cpu:/x\n"), outside);
	assert_string_equal(group_of(""), outside);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(the_lowest_of_all_above_counts, setup, teardown),
		cmocka_unit_test_setup_teardown(room_is_what_is_not_taken_or_would_be_given_back,
						setup, teardown),
		cmocka_unit_test(
			a_group_above_the_root_is_told_from_one_whose_name_begins_with_dots),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
