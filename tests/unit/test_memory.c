/* Guest memory: layout around the hole, mapping a snapshot's RAM, and the one way to a pointer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "runner/vm/memory.h"
#include "smfs/base/num.h"

static void ram_is_split_around_the_hole(void **state)
{
	struct memory m;

	assert_int_equal(memory_layout(&m, 256 * MIB, NULL), 0);
	assert_int_equal(m.n, 1);
	assert_int_equal(memory_layout(&m, MEMORY_HOLE_START, NULL), 0);
	assert_int_equal(m.n, 1);
	assert_int_equal(memory_layout(&m, 5 * GIB, NULL), 0);
	assert_int_equal(m.n, 2);
	assert_int_equal(m.region[0].size, MEMORY_HOLE_START);
	assert_int_equal(m.region[1].gpa, MEMORY_HOLE_END);
	assert_int_equal(m.region[1].size, 2 * GIB);
	assert_int_equal(m.region[1].file_off, MEMORY_HOLE_START);
	assert_int_equal(memory_ram_bytes(&m), 5 * GIB);
}

static void impossible_sizes_are_refused(void **state)
{
	static const uint64_t bad[] = {0, 4096, MEMORY_RAM_MIN + 1, MEMORY_RAM_MAX + 4096,
				       UINT64_MAX};
	struct memory m;
	struct err err;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(memory_layout(&m, bad[i], &err), -EINVAL);
}

static void pointers_stay_within_one_region(void **state)
{
	struct memory m;

	assert_int_equal(memory_layout(&m, 4 * GIB, NULL), 0);
	assert_int_equal(memory_map_anon(&m, NULL), 0);
	assert_ptr_equal(memory_at(&m, 0, 1), m.region[0].hva);
	assert_non_null(memory_at(&m, MEMORY_HOLE_START - 8, 8));
	assert_null(memory_at(&m, MEMORY_HOLE_START - 8, 9));
	assert_null(memory_at(&m, MEMORY_HOLE_START, 1));
	assert_null(memory_at(&m, MEMORY_HOLE_END - 1, 2));
	assert_ptr_equal(memory_at(&m, MEMORY_HOLE_END, GIB), m.region[1].hva);
	assert_null(memory_at(&m, MEMORY_HOLE_END, GIB + 1));
	assert_null(memory_at(&m, MEMORY_HOLE_END + GIB, 1));
	assert_null(memory_at(&m, UINT64_MAX, 2));
	assert_null(memory_at(&m, 8, UINT64_MAX));
	memory_free(&m);
	assert_null(memory_at(&m, 0, 1));
}

static int file_of(size_t len)
{
	int fd = memfd_create("ram", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)len), 0);
	return fd;
}

static void a_file_is_mapped_private(void **state)
{
	int fd = file_of(MEMORY_RAM_MIN);
	struct memory m;
	char c = 0;

	assert_int_equal(pwrite(fd, "x", 1, 5000), 1);
	assert_int_equal(memory_layout(&m, MEMORY_RAM_MIN, NULL), 0);
	assert_int_equal(memory_map_file(&m, fd, "ram", NULL), 0);
	uint8_t *p = memory_at(&m, 5000, 1);
	assert_int_equal(*p, 'x');
	*p = 'y';
	assert_int_equal(pread(fd, &c, 1, 5000), 1);
	assert_int_equal(c, 'x');
	memory_free(&m);
	close(fd);
}

static void a_file_of_another_size_is_refused(void **state)
{
	static const size_t bad[] = {0, MEMORY_RAM_MIN - 1, MEMORY_RAM_MIN + 4096};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		int fd = file_of(bad[i]);
		struct memory m;
		struct err err;

		assert_int_equal(memory_layout(&m, MEMORY_RAM_MIN, NULL), 0);
		assert_int_equal(memory_map_file(&m, fd, "ram", &err), -EBADMSG);
		memory_free(&m);
		close(fd);
	}
}

static void *page(void)
{
	return mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

static void other_regions_are_no_ram(void **state)
{
	struct memory m;
	struct err err;

	assert_int_equal(memory_layout(&m, MEMORY_RAM_MIN, NULL), 0);
	assert_int_equal(memory_map_anon(&m, NULL), 0);
	struct memory_region r = {.kind = MEMORY_PMEM, .gpa = 4 * GIB, .size = 4096, .hva = page()};
	assert_int_equal(memory_add(&m, &r, NULL), 0);
	assert_null(memory_at(&m, 4 * GIB, 1));
	assert_int_equal(memory_ram_bytes(&m), MEMORY_RAM_MIN);
	/* Overlapping, crooked, or without mapping. */
	assert_int_equal(memory_add(&m, &r, &err), -EEXIST);
	r.gpa = MEMORY_RAM_MIN - 4096;
	assert_int_equal(memory_add(&m, &r, &err), -EEXIST);
	r.gpa = 5 * GIB + 1;
	assert_int_equal(memory_add(&m, &r, &err), -EINVAL);
	r.gpa = UINT64_MAX - 4095;
	assert_int_equal(memory_add(&m, &r, &err), -EINVAL);
	r.gpa = 5 * GIB;
	r.hva = NULL;
	assert_int_equal(memory_add(&m, &r, &err), -EINVAL);
	memory_free(&m);
}

static void the_region_table_has_an_end(void **state)
{
	struct memory m;
	struct err err;

	assert_int_equal(memory_layout(&m, MEMORY_RAM_MIN, NULL), 0);
	for (unsigned i = m.n; i < MEMORY_MAX_REGIONS; i++) {
		struct memory_region r = {
			.kind = MEMORY_PMEM, .gpa = (4 + i) * GIB, .size = 4096, .hva = page()};

		assert_int_equal(memory_add(&m, &r, NULL), 0);
	}
	struct memory_region more = {
		.kind = MEMORY_PMEM, .gpa = 64 * GIB, .size = 4096, .hva = (uint8_t *)4096};
	assert_int_equal(memory_add(&m, &more, &err), -ENOSPC);
	memory_free(&m);
}

static void what_no_data_is_in_may_come_later(void **state)
{
	struct memory m;
	struct err err = ERR_INIT;
	uint64_t used[MEMORY_MAX_REGIONS] = {[0] = 33 * MIB, [1] = 0};

	assert_int_equal(memory_layout(&m, 4 * GIB, &err), 0);
	assert_false(memory_has_later(&m));
	memory_defer(&m, used);
	assert_true(m.region[0].later);
	assert_int_equal(m.region[0].later_from, 64 * MIB); /* a whole step above the data */
	assert_true(m.region[1].later);
	assert_int_equal(m.region[1].later_from, 0);
	assert_true(memory_has_later(&m));

	/* Full, nearly full, or said to be more than full: nothing to defer. */
	static const uint64_t full[] = {3 * GIB, 3 * GIB - 40 * MIB, UINT64_MAX};

	for (size_t i = 0; i < ARRAY_SIZE(full); i++) {
		assert_int_equal(memory_layout(&m, 3 * GIB, &err), 0);
		used[0] = full[i];
		memory_defer(&m, used);
		assert_false(memory_has_later(&m));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ram_is_split_around_the_hole),
		cmocka_unit_test(impossible_sizes_are_refused),
		cmocka_unit_test(pointers_stay_within_one_region),
		cmocka_unit_test(a_file_is_mapped_private),
		cmocka_unit_test(a_file_of_another_size_is_refused),
		cmocka_unit_test(other_regions_are_no_ram),
		cmocka_unit_test(the_region_table_has_an_end),
		cmocka_unit_test(what_no_data_is_in_may_come_later),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
