/* The disk: requests, bounds, reset and snapshot with I/O under way. */
#include "tests/unit/virtio_driver.h"

#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_ids.h>
#include <stdio.h>
#include <sys/stat.h>

#include "runner/devices/virtio_blk.h"

#define DISK_BYTES (4 * MIB + 100) /* an odd tail, out of reach */
#define SECTORS	   (4 * MIB / 512)
#define MAX_DATA   (64u << 10)
#define NONE	   0xff /* the status byte before an answer */

struct fixture {
	char path[64];
	struct vm *vm;
	struct device *d;
	struct drv drv;
	uint64_t mem; /* 16 bytes header, status byte at 16, data at 4096 */
};

static void open_disk(struct fixture *f, bool readonly)
{
	struct err err = ERR_INIT;
	struct disk *disk;

	f->vm = machine();
	assert_int_equal(disk_open("disk-data", f->path, readonly, &disk, &err), 0);
	assert_int_equal(virtio_blk_new(f->vm, "disk-data", disk, &err), 0);
	f->d = vm_find_device(f->vm, "disk-data");
	count_irqs(f->d);
	machine_start(f->vm);
}

static void driver_up(struct fixture *f)
{
	drv_start(&f->drv, f->d, 1,
		  VIRTIO_BIT(VIRTIO_RING_F_EVENT_IDX) | VIRTIO_BIT(VIRTIO_BLK_F_FLUSH));
	f->mem = align_up(drv_alloc(&f->drv, 8192 + MAX_DATA), 4096);
}

static int set_up(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	int fd;

	strcpy(f->path, "/tmp/blk-test.XXXXXX");
	fd = mkstemp(f->path);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, DISK_BYTES), 0);
	close(fd);
	open_disk(f, false);
	driver_up(f);
	*state = f;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *f = *state;

	machine_free(f->vm);
	unlink(f->path);
	free(f);
	return 0;
}

/* Put a request in the ring; its status byte is at f->mem + 16. */
static void ask(struct fixture *f, uint32_t type, uint64_t sector, uint32_t len)
{
	struct virtio_blk_outhdr h = {.type = type, .sector = sector};
	bool in = type == VIRTIO_BLK_T_IN || type == VIRTIO_BLK_T_GET_ID;
	struct seg s[3] = {
		{f->mem, sizeof(h), false}, {f->mem + 4096, len, in}, {f->mem + 16, 1, true}};

	memcpy(guest(f->vm, f->mem), &h, sizeof(h));
	*(uint8_t *)guest(f->vm, f->mem + 16) = NONE;
	if (!len)
		s[1] = s[2];
	drv_add(&f->drv.q[0], s, len ? 3 : 2);
	drv_kick(&f->drv.q[0]);
}

static uint8_t request(struct fixture *f, uint32_t type, uint64_t sector, uint32_t len,
		       uint32_t *used)
{
	uint32_t n;

	ask(f, type, sector, len);
	n = drv_take(&f->drv.q[0], NULL);
	if (used)
		*used = n;
	return *(uint8_t *)guest(f->vm, f->mem + 16);
}

static uint8_t *data(struct fixture *f)
{
	return guest(f->vm, f->mem + 4096);
}

static void reads_back_what_was_written(void **state)
{
	struct fixture *f = *state;
	uint8_t expect[8192], got[8192];
	uint32_t used;
	int fd;

	assert_int_equal(reg_read(f->d, VIRTIO_MMIO_DEVICE_ID), VIRTIO_ID_BLOCK);
	assert_int_equal(config64(f->d, 0), SECTORS);
	for (unsigned i = 0; i < sizeof(expect); i++)
		expect[i] = (uint8_t)(i * 13 >> 4);
	memcpy(data(f), expect, sizeof(expect));
	assert_int_equal(request(f, VIRTIO_BLK_T_OUT, 100, sizeof(expect), &used), VIRTIO_BLK_S_OK);
	assert_int_equal(used, 1);
	assert_int_equal(request(f, VIRTIO_BLK_T_FLUSH, 0, 0, &used), VIRTIO_BLK_S_OK);
	assert_int_equal(used, 1);
	memset(data(f), 0, sizeof(expect));
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, 100, sizeof(expect), &used), VIRTIO_BLK_S_OK);
	assert_int_equal(used, sizeof(expect) + 1);
	assert_memory_equal(data(f), expect, sizeof(expect));
	fd = open(f->path, O_RDONLY | O_CLOEXEC);
	assert_int_equal(pread(fd, got, sizeof(got), 100 * 512), sizeof(got));
	assert_memory_equal(got, expect, sizeof(expect));
	close(fd);
	assert_true(irqs(f->d) >= 1);
}

static void serial_number_is_the_id(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(request(f, VIRTIO_BLK_T_GET_ID, 0, VIRTIO_BLK_ID_BYTES, NULL),
			 VIRTIO_BLK_S_OK);
	assert_string_equal((char *)data(f), "disk-data");
}

static void ends_of_the_disk_hold(void **state)
{
	struct fixture *f = *state;
	struct stat st;

	assert_int_equal(request(f, VIRTIO_BLK_T_OUT, SECTORS - 1, 512, NULL), VIRTIO_BLK_S_OK);
	assert_int_equal(request(f, VIRTIO_BLK_T_OUT, SECTORS, 512, NULL), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(f, VIRTIO_BLK_T_OUT, SECTORS - 1, 1024, NULL), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, UINT64_MAX, 512, NULL), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, UINT64_MAX / 512 + 1, 512, NULL),
			 VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, 0, 100, NULL), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, 0, 0, NULL), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(f, 77, 0, 512, NULL), VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(stat(f->path, &st), 0);
	assert_int_equal(st.st_size, DISK_BYTES);
	assert_false(needs_reset(f->d));
}

static void vanished_medium_is_an_io_error(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(truncate(f->path, 4096), 0);
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, 100, 4096, NULL), VIRTIO_BLK_S_IOERR);
}

static void read_only_disk_is_not_written(void **state)
{
	struct fixture *f = *state;

	machine_free(f->vm);
	open_disk(f, true);
	driver_up(f);
	assert_int_equal(request(f, VIRTIO_BLK_T_OUT, 0, 512, NULL), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, 0, 512, NULL), VIRTIO_BLK_S_OK);
}

static void disk_in_use_is_refused(void **state)
{
	struct fixture *f = *state;
	struct err err = ERR_INIT;
	struct disk *disk;

	assert_int_equal(disk_open("x", f->path, false, &disk, &err), -EAGAIN);
	assert_int_equal(disk_open("x", f->path, true, &disk, &err), -EAGAIN);
	assert_int_equal(disk_open("x", "/no/such/file", true, &disk, &err), -ENOENT);
	assert_int_equal(disk_open("x", "/dev/null", true, &disk, &err), -EINVAL);
	assert_int_equal(disk_open("x", "/tmp", true, &disk, &err), -EINVAL);
}

static void request_without_status_breaks_the_device(void **state)
{
	struct fixture *f = *state;

	drv_add(&f->drv.q[0], (struct seg[]){{f->mem, 16, false}}, 1);
	drv_kick(&f->drv.q[0]);
	wait_for(needs_reset(f->d));
}

static void request_without_header_breaks_the_device(void **state)
{
	struct fixture *f = *state;

	drv_add(&f->drv.q[0], (struct seg[]){{f->mem, 15, false}, {f->mem + 16, 1, true}}, 2);
	drv_kick(&f->drv.q[0]);
	wait_for(needs_reset(f->d));
}

/* Whatever the worker is at, nothing of it reaches a driver that has reset since. */
static void reset_forgets_what_is_under_way(void **state)
{
	struct fixture *f = *state;

	for (unsigned round = 0; round < 50; round++) {
		for (unsigned i = 0; i < 5; i++)
			ask(f, VIRTIO_BLK_T_IN, 0, MAX_DATA);
		driver_up(f);
		poll(NULL, 0, 1);
		assert_int_equal(drv_used_idx(&f->drv.q[0]), 0);
		assert_int_equal(request(f, VIRTIO_BLK_T_FLUSH, 0, 0, NULL), VIRTIO_BLK_S_OK);
		assert_int_equal(drv_used_idx(&f->drv.q[0]), 1);
	}
}

/* After quiesce all that was taken is answered, so the state is whole; the rest comes on resume. */
static void pause_finishes_what_is_under_way(void **state)
{
	struct fixture *f = *state;
	struct err err = ERR_INIT;
	struct writer w;

	for (unsigned i = 0; i < 5; i++)
		ask(f, VIRTIO_BLK_T_IN, 0, MAX_DATA);
	pause_device(f->d);
	w = save_device(f->d);
	uint16_t done = drv_used_idx(&f->drv.q[0]);
	for (unsigned i = 0; i < 20; i++) {
		poll(NULL, 0, 1);
		assert_int_equal(drv_used_idx(&f->drv.q[0]), done);
	}
	assert_int_equal(load_device(f->d, w.p, w.len, &err), 0);
	resume_device(f->d);
	for (unsigned i = 0; i < 5; i++)
		drv_take(&f->drv.q[0], NULL);
	w.p[w.len - 9] ^= 1; /* capacity */
	pause_device(f->d);
	assert_int_equal(load_device(f->d, w.p, w.len, &err), -EBADMSG);
	writer_free(&w);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(reads_back_what_was_written),
		TEST(serial_number_is_the_id),
		TEST(ends_of_the_disk_hold),
		TEST(vanished_medium_is_an_io_error),
		TEST(read_only_disk_is_not_written),
		TEST(disk_in_use_is_refused),
		TEST(request_without_status_breaks_the_device),
		TEST(request_without_header_breaks_the_device),
		TEST(reset_forgets_what_is_under_way),
		TEST(pause_finishes_what_is_under_way),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
