/* Guest memory: layout around the hole, mapping a snapshot's RAM, and the one way to a pointer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
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

/* ---- rewinding ----------------------------------------------------------------------------- */

#define PAGE 4096u

struct tape {
	struct memory m;
	int fd;
};

/* Data in every other MiB, holes between. */
static void tape_open(struct tape *t, uint64_t bytes)
{
	uint8_t data[PAGE];

	t->fd = file_of(bytes);
	for (uint64_t off = 0; off < bytes; off += off % MIB == MIB - PAGE ? MIB + PAGE : PAGE) {
		memset(data, (int)(off / PAGE % 251 + 1), sizeof(data));
		assert_int_equal(pwrite(t->fd, data, PAGE, (off_t)off), PAGE);
	}
	assert_int_equal(memory_layout(&t->m, bytes, NULL), 0);
	assert_int_equal(memory_map_file(&t->m, t->fd, "ram", NULL), 0);
}

static void tape_close(struct tape *t)
{
	memory_free(&t->m);
	close(t->fd);
}

static bool is_the_files(const struct tape *t)
{
	static uint8_t want[MIB];

	for (unsigned i = 0; i < t->m.n; i++)
		for (uint64_t off = 0; off < t->m.region[i].size; off += MIB) {
			const uint64_t at = t->m.region[i].file_off + off;

			assert_int_equal(pread(t->fd, want, MIB, (off_t)at), MIB);
			if (memcmp(want, t->m.region[i].hva + off, MIB) != 0)
				return false;
		}
	return true;
}

static bool is_mapped(const void *p)
{
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	uint64_t entry = 0;

	assert_int_equal(pread(fd, &entry, 8, (off_t)((uintptr_t)p / PAGE * 8)), 8);
	close(fd);
	return entry >> 63;
}

/* Whether this kernel can; the rest of the test is about one that does. */
static bool rewinds(struct tape *t, uint64_t *bytes)
{
	struct err err = ERR_INIT;
	const int r = memory_rewind(&t->m, t->fd, "ram", bytes, &err);

	if (r == -ENOTSUP)
		return false;
	if (r < 0)
		fail_msg("%s", err.msg);
	return true;
}

static void what_was_written_is_given_up_and_no_more(void **state)
{
	struct tape t;
	uint64_t bytes;
	uint8_t *p;
	int zero = open("/dev/urandom", O_RDONLY | O_CLOEXEC);

	tape_open(&t, 64 * MIB);
	p = t.m.region[0].hva;
	if (!rewinds(&t, &bytes)) {
		tape_close(&t);
		skip();
	}
	assert_int_equal(bytes, 0);
	assert_true(is_the_files(&t)); /* and all of it is mapped now */
	p[0] ^= 1;
	p[64 * MIB - 1] ^= 1;
	p[MIB + 5] = 7;			     /* in a hole */
	memset(p + 20 * MIB, 0xaa, 4 * MIB); /* through data and holes */
	assert_int_equal(read(zero, p + 9 * MIB - 100, 200),
			 200); /* by the kernel, as a device does */
	/* Swapped out, where there is anything to swap to. */
	(void)madvise(p + 21 * MIB, MIB, MADV_PAGEOUT);
	assert_false(is_the_files(&t));
	assert_true(rewinds(&t, &bytes));
	assert_int_equal(bytes, 4 * MIB + 5 * PAGE);
	assert_false(is_mapped(p));
	assert_false(is_mapped(p + 21 * MIB));
	assert_true(is_mapped(p + 40 * MIB));
	assert_true(is_the_files(&t));
	assert_true(rewinds(&t, &bytes));
	assert_int_equal(bytes, 0);
	close(zero);
	tape_close(&t);
}

/* Whatever the pattern: all of it is the file's afterwards, one way or the other. */
static void random_writes_are_gone(void **state)
{
	struct err err = ERR_INIT;
	unsigned seed = 1;
	struct tape t;
	uint64_t bytes;

	tape_open(&t, 32 * MIB);
	for (int round = 0; round < 12; round++) {
		uint8_t *p = t.m.region[0].hva;
		const int density = 1 + rand_r(&seed) % 60;

		for (uint64_t off = 0; off < 32 * MIB; off += PAGE)
			if (rand_r(&seed) % 100 < density)
				p[off + (unsigned)rand_r(&seed) % PAGE] ^= 1;
			else if (rand_r(&seed) % 50 == 0)
				off += rand_r(&seed) % MIB / PAGE * PAGE;
		if (memory_rewind(&t.m, t.fd, "ram", &bytes, &err) < 0)
			assert_int_equal(memory_remap_file(&t.m, t.fd, "ram", &err), 0);
		assert_true(is_the_files(&t));
	}
	tape_close(&t);
}

/* Pages a forked writer of a snapshot still has are its own from then on. */
static void a_child_keeps_what_it_has(void **state)
{
	struct tape t;
	uint64_t bytes;
	uint8_t *p;
	int go[2], status;
	char c;

	tape_open(&t, 4 * MIB);
	p = t.m.region[0].hva;
	memset(p + MIB, 0x55, 2 * MIB);
	assert_int_equal(pipe2(go, O_CLOEXEC), 0);
	const pid_t pid = fork();
	if (pid == 0) {
		bool same = read(go[0], &c, 1) == 1;

		for (unsigned i = 0; i < 2 * MIB; i++)
			same = same && p[MIB + i] == 0x55;
		_exit(!same);
	}
	if (rewinds(&t, &bytes)) {
		assert_int_equal(bytes, 2 * MIB);
		assert_true(is_the_files(&t));
	}
	assert_int_equal(write(go[1], "g", 1), 1);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	close(go[0]);
	close(go[1]);
	tape_close(&t);
}

static void pages_everywhere_are_mapped_anew_instead(void **state)
{
	const uint64_t far = 32 * PAGE;
	struct err err = ERR_INIT;
	struct tape t;
	uint64_t bytes;
	uint8_t *p;

	tape_open(&t, 256 * MIB);
	p = t.m.region[0].hva;
	/* Every other page is near enough to be one run. */
	for (uint64_t off = 0; off < 32 * MIB; off += 2 * PAGE)
		p[off] ^= 1;
	if (!rewinds(&t, &bytes)) {
		tape_close(&t);
		skip();
	}
	assert_int_equal(bytes, 32 * MIB - PAGE);
	assert_true(is_the_files(&t));
	for (uint64_t off = 0; off < 256 * MIB; off += far)
		p[off] ^= 1;
	assert_int_equal(memory_rewind(&t.m, t.fd, "ram", &bytes, &err), -E2BIG);
	assert_int_equal(memory_remap_file(&t.m, t.fd, "ram", &err), 0);
	assert_true(is_the_files(&t));
	tape_close(&t);
}

/* Two regions, which may or may not lie side by side in this process. */
static void regions_are_rewound_each_for_itself(void **state)
{
	int fd = file_of(4 * GIB);
	struct err err = ERR_INIT;
	struct memory m;
	uint64_t bytes;
	int r;

	assert_int_equal(pwrite(fd, "end", 3, 3 * GIB - 3), 3);
	assert_int_equal(pwrite(fd, "begin", 5, 3 * GIB), 5);
	assert_int_equal(memory_layout(&m, 4 * GIB, NULL), 0);
	assert_int_equal(memory_map_file(&m, fd, "ram", NULL), 0);
	memcpy(m.region[0].hva + 3 * GIB - 3, "xxx", 3);
	memcpy(m.region[1].hva, "yyyyy", 5);
	m.region[1].hva[GIB - 1] = 'z';
	m.region[0].hva[0] = 'z';
	r = memory_rewind(&m, fd, "ram", &bytes, &err);
	if (r != -ENOTSUP) {
		assert_int_equal(r, 0);
		assert_int_equal(bytes, 4 * PAGE);
		assert_memory_equal(m.region[0].hva + 3 * GIB - 3, "end", 3);
		assert_memory_equal(m.region[1].hva, "begin", 5);
		assert_int_equal(m.region[1].hva[GIB - 1], 0);
		assert_int_equal(m.region[0].hva[0], 0);
	}
	/* Short by a page, which would be a fault without a page. */
	assert_int_equal(ftruncate(fd, 4 * GIB - PAGE), 0);
	assert_int_equal(memory_rewind(&m, fd, "ram", &bytes, &err), -EBADMSG);
	memory_free(&m);
	close(fd);
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
		cmocka_unit_test(what_was_written_is_given_up_and_no_more),
		cmocka_unit_test(random_writes_are_gone),
		cmocka_unit_test(a_child_keeps_what_it_has),
		cmocka_unit_test(pages_everywhere_are_mapped_anew_instead),
		cmocka_unit_test(regions_are_rewound_each_for_itself),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
