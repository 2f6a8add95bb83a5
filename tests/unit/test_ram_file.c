/*
 * Which pages of RAM a diff takes: exactly those written since the snapshot it came from, wherever
 * the kernel has put them meanwhile.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/swap.h>
#include <time.h>
#include <unistd.h>

#include "runner/snapshot/ram_file.h"
#include "smfs/base/io.h"
#include "smfs/base/num.h"

#define PAGE	   4096u
#define RAM_BYTES  (16 * MIB)
#define PAGES	   (RAM_BYTES / PAGE)
#define SWAP_BYTES (32 * MIB)
#define TRIES	   200 /* of 50 ms */

struct fixture {
	char dir[32], ram[64], swap[64];
	bool swapping;
	int fd;
	struct memory m;
	bool written[PAGES];
};

/* mkswap(8): version 1, its signature at the end of the first page. */
static int make_swap(const char *path)
{
	struct {
		uint8_t boot[1024];
		uint32_t version, last_page, nbad;
	} head = {.version = 1, .last_page = SWAP_BYTES / PAGE - 1};
	static uint8_t zeros[MIB];
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600), ret = 0;

	/* A swap file has no holes. */
	for (uint64_t off = 0; ret == 0 && off < SWAP_BYTES; off += MIB)
		ret = pwrite_full(fd, zeros, MIB, off);
	if (ret == 0)
		ret = pwrite_full(fd, &head, sizeof(head), 0);
	if (ret == 0)
		ret = pwrite_full(fd, "SWAPSPACE2", 10, PAGE - 10);
	fsync(fd);
	close(fd);
	return ret;
}

static int set_up(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	static uint8_t page[PAGE];
	struct err err = ERR_INIT;

	/* On a disk: a tmpfs takes no swap file. */
	strcpy(f->dir, "/var/tmp/ram-test.XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->ram, sizeof(f->ram), "%s/ram", f->dir);
	snprintf(f->swap, sizeof(f->swap), "%s/swap", f->dir);
	f->fd = open(f->ram, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	/* Every other 64 KiB is data. */
	for (unsigned i = 0; i < PAGES; i++) {
		memset(page, (int)(1 + i % 255), sizeof(page));
		if (i / 16 % 2)
			assert_int_equal(pwrite_full(f->fd, page, PAGE, (uint64_t)i * PAGE), 0);
	}
	assert_int_equal(ftruncate(f->fd, RAM_BYTES), 0);
	assert_int_equal(memory_layout(&f->m, RAM_BYTES, &err), 0);
	assert_int_equal(memory_map_file(&f->m, f->fd, f->ram, &err), 0);
	*state = f;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *f = *state;

	for (unsigned i = 0; i < f->m.n; i++)
		munmap(f->m.region[i].hva, f->m.region[i].size);
	if (f->swapping)
		swapoff(f->swap);
	close(f->fd);
	unlink(f->ram);
	unlink(f->swap);
	rmdir(f->dir);
	free(f);
	return 0;
}

static uint8_t *page_at(struct fixture *f, unsigned i)
{
	return f->m.region[0].hva + (size_t)i * PAGE;
}

/* A fifth of the pages written, another fifth only read. */
static void touch(struct fixture *f)
{
	unsigned seed = 7;

	for (unsigned i = 0; i < PAGES; i++)
		switch (rand_r(&seed) % 5) {
		case 0:
			*(volatile uint8_t *)page_at(f, i) = (uint8_t)i;
			f->written[i] = true;
			break;
		case 1:
			(void)*(volatile uint8_t *)page_at(f, i);
		}
}

static int collect(void *arg, const struct memory_region *r, uint64_t off, uint64_t len,
		   enum ram_page kind, struct err *err)
{
	for (uint64_t i = off / PAGE; i < (off + len) / PAGE; i++)
		((enum ram_page *)arg)[i] = kind;
	return 0;
}

static void exactly_the_written(struct fixture *f)
{
	static enum ram_page kind[PAGES];
	struct ram_blocks blocks;
	struct err err = ERR_INIT;
	uint64_t data = 0;

	assert_int_equal(ram_runs_each(&f->m, collect, kind, &err), 0);
	for (unsigned i = 0; i < PAGES; i++)
		if ((kind[i] == RAM_OWN) != f->written[i])
			fail_msg("page %u: %s, and said to be of kind %d", i,
				 f->written[i] ? "written" : "not written", kind[i]);
	/* A whole snapshot takes their blocks, too, beside the file's data. */
	for (unsigned b = 0; b < PAGES / 16; b++) {
		bool any = b % 2;

		for (unsigned i = b * 16; i < (b + 1) * 16; i++)
			any |= f->written[i];
		data += any ? RAM_BLOCK : 0;
	}
	assert_int_equal(ram_blocks_find(&f->m, f->fd, &blocks, &err), 0);
	assert_int_equal(blocks.data_bytes, data);
	ram_blocks_free(&blocks);
}

/* Written pages that are in no memory now, by the kernel's own account (pagemap, bits 62, 63). */
static unsigned swapped_out(struct fixture *f)
{
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	unsigned n = 0;

	for (unsigned i = 0; i < PAGES; i++) {
		uint64_t e = 0;

		assert_int_equal(pread_full(fd, &e, sizeof(e), (uintptr_t)page_at(f, i) / PAGE * 8),
				 0);
		n += f->written[i] && e >> 62 == 1;
	}
	close(fd);
	return n;
}

static void in_memory(void **state)
{
	touch(*state);
	exactly_the_written(*state);
}

static void swapped(void **state)
{
	struct fixture *f = *state;
	const struct timespec pause = {.tv_nsec = 50 * 1000 * 1000};
	unsigned written = 0, out = 0;

	if (make_swap(f->swap) < 0 || swapon(f->swap, 0) < 0) {
		print_message("# no swap file: %s\n", strerror(errno));
		skip();
	}
	f->swapping = true;
	touch(f);
	for (unsigned i = 0; i < PAGES; i++)
		written += f->written[i];
	/* Each time the kernel takes what it can: a page that is being written, or was just
	 * touched, stays. */
	for (int i = 0; i < TRIES && out < written * 9 / 10; i++) {
		for (unsigned r = 0; r < f->m.n; r++)
			if (madvise(f->m.region[r].hva, f->m.region[r].size, MADV_PAGEOUT) < 0)
				fail_msg("page out: %s", strerror(errno));
		out = swapped_out(f);
		if (out < written * 9 / 10)
			nanosleep(&pause, NULL);
	}
	print_message("# %u of %u written pages are swapped out\n", out, written);
	assert_in_range(out, written * 9 / 10, written);
	exactly_the_written(f);
	assert_in_range(swapped_out(f), written * 9 / 10, written);
	/* Looked at, some come back; written, too. */
	for (unsigned i = 0; i < PAGES; i += 3)
		assert_true(!f->written[i] || *page_at(f, i) == (uint8_t)i);
	exactly_the_written(f);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {TEST(in_memory), TEST(swapped)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
