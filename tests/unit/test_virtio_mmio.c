/* The virtio-mmio transport, through its two smallest devices: rng and pmem. */
#include "tests/unit/virtio_driver.h"

#include <fcntl.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_pmem.h>
#include <sys/mman.h>

#include "runner/devices/virtio_pmem.h"
#include "runner/devices/virtio_rng.h"

#define EVENT_IDX VIRTIO_BIT(VIRTIO_RING_F_EVENT_IDX)

struct fixture {
	struct vm *vm;
	struct device *d;
	struct drv drv;
};

static int set_up(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct err err = ERR_INIT;

	f->vm = machine();
	assert_int_equal(virtio_rng_new(f->vm, "rng0", &err), 0);
	f->d = vm_find_device(f->vm, "rng0");
	count_irqs(f->d);
	machine_start(f->vm);
	*state = f;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *f = *state;

	machine_free(f->vm);
	free(f);
	return 0;
}

/* ---- registers ------------------------------------------------------------------------------ */

static void says_what_it_is(void **state)
{
	struct device *d = ((struct fixture *)*state)->d;

	assert_int_equal(reg_read(d, VIRTIO_MMIO_MAGIC_VALUE), 0x74726976);
	assert_int_equal(reg_read(d, VIRTIO_MMIO_VERSION), 2);
	assert_int_equal(reg_read(d, VIRTIO_MMIO_DEVICE_ID), VIRTIO_ID_RNG);
	reg_write(d, VIRTIO_MMIO_DEVICE_FEATURES_SEL, 1);
	assert_int_equal(reg_read(d, VIRTIO_MMIO_DEVICE_FEATURES), 1); /* VERSION_1 */
	reg_write(d, VIRTIO_MMIO_DEVICE_FEATURES_SEL, 2);
	assert_int_equal(reg_read(d, VIRTIO_MMIO_DEVICE_FEATURES), 0);
	assert_int_equal(reg_read(d, VIRTIO_MMIO_SHM_LEN_LOW), 0xffffffff);
	reg_write(d, VIRTIO_MMIO_QUEUE_SEL, 1);
	assert_int_equal(reg_read(d, VIRTIO_MMIO_QUEUE_NUM_MAX), 0);
	reg_write(d, VIRTIO_MMIO_QUEUE_SEL, 0xffffffff);
	assert_int_equal(reg_read(d, VIRTIO_MMIO_QUEUE_READY), 0);
	assert_int_equal(d->ops->read(d, 1, 2), 0); /* odd accesses get nothing */
}

static void features_must_be_offered(void **state)
{
	struct device *d = ((struct fixture *)*state)->d;
	uint32_t status = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;

	/* Without VERSION_1, and then with a feature nobody offered. */
	for (unsigned i = 0; i < 2; i++) {
		reg_write(d, VIRTIO_MMIO_STATUS, 0);
		reg_write(d, VIRTIO_MMIO_STATUS, status);
		reg_write(d, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
		reg_write(d, VIRTIO_MMIO_DRIVER_FEATURES, i ? 3 : 0);
		reg_write(d, VIRTIO_MMIO_STATUS, status | VIRTIO_CONFIG_S_FEATURES_OK);
		assert_int_equal(reg_read(d, VIRTIO_MMIO_STATUS), status);
		reg_write(d, VIRTIO_MMIO_STATUS,
			  status | VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK);
		assert_int_equal(reg_read(d, VIRTIO_MMIO_STATUS), status);
	}
}

static void queue_cannot_change_under_a_running_driver(void **state)
{
	struct fixture *f = *state;
	struct virtqueue *q = &((struct virtio_device *)f->d)->queue[0];

	drv_start(&f->drv, f->d, 1, 0);
	reg_write(f->d, VIRTIO_MMIO_QUEUE_NUM, 4);
	reg_write(f->d, VIRTIO_MMIO_QUEUE_DESC_HIGH, 0xffffffff);
	assert_int_equal(q->size, TEST_QUEUE_SIZE);
	assert_int_equal(q->desc_gpa, f->drv.q[0].desc_gpa);
	reg_write(f->d, VIRTIO_MMIO_QUEUE_READY, 0);
	assert_int_equal(reg_read(f->d, VIRTIO_MMIO_QUEUE_READY), 0);
	drv_kick(&f->drv.q[0]); /* of no effect, and of no harm */
	reg_write(f->d, VIRTIO_MMIO_QUEUE_NOTIFY, 0xffffffff);
}

static void queue_outside_ram_breaks_the_device(void **state)
{
	struct fixture *f = *state;
	struct device *d = f->d;

	drv_start(&f->drv, d, 0, 0); /* for the negotiation; then back to before DRIVER_OK */
	lock_devices(f->vm);
	((struct virtio_device *)d)->status &= ~VIRTIO_CONFIG_S_DRIVER_OK;
	unlock_devices(f->vm);
	reg_write(d, VIRTIO_MMIO_QUEUE_SEL, 0);
	reg_write(d, VIRTIO_MMIO_QUEUE_NUM, 16);
	reg_write(d, VIRTIO_MMIO_QUEUE_DESC_HIGH, 0x7fffffff);
	reg_write(d, VIRTIO_MMIO_QUEUE_READY, 1);
	assert_true(needs_reset(d));
	assert_int_equal(reg_read(d, VIRTIO_MMIO_QUEUE_READY), 0);
}

/* ---- rng ------------------------------------------------------------------------------------ */

static void rng_fills_buffers(void **state)
{
	struct fixture *f = *state;
	struct drv_queue *q = &f->drv.q[0];
	static const uint8_t zero[64];
	uint64_t at;

	drv_start(&f->drv, f->d, 1, EVENT_IDX);
	at = drv_alloc(&f->drv, 128);
	drv_add(q, (struct seg[]){{at, 64, true}, {at + 64, 64, true}}, 2);
	drv_kick(q);
	assert_int_equal(drv_take(q, NULL), 128);
	assert_memory_not_equal(guest(f->vm, at), zero, 64);
	assert_memory_not_equal(guest(f->vm, at), guest(f->vm, at + 64), 64);
	wait_for(reg_read(f->d, VIRTIO_MMIO_INTERRUPT_STATUS) == VIRTIO_MMIO_INT_VRING);
	assert_int_equal(irqs(f->d), 1);
	reg_write(f->d, VIRTIO_MMIO_INTERRUPT_ACK, VIRTIO_MMIO_INT_VRING);
	assert_int_equal(reg_read(f->d, VIRTIO_MMIO_INTERRUPT_STATUS), 0);
}

static void rng_rate_is_bounded_and_goes_on(void **state)
{
	struct fixture *f = *state;
	struct drv_queue *q = &f->drv.q[0];
	double start = seconds();
	uint64_t at, sum = 0;

	drv_start(&f->drv, f->d, 1, 0);
	at = drv_alloc(&f->drv, VIRTIO_RNG_REQUEST);
	/* Three periods' worth, with the ring always full: it takes two whole periods to wait for.
	 */
	for (unsigned i = 0; i < TEST_QUEUE_SIZE; i++)
		drv_add(q, (struct seg[]){{at, VIRTIO_RNG_REQUEST, true}}, 1);
	drv_kick(q);
	while (sum < 3 * VIRTIO_RNG_BUDGET) {
		uint16_t head;

		sum += drv_take(q, &head);
		drv_offer(q, head);
		drv_kick(q);
	}
	assert_true(seconds() - start > 2 * VIRTIO_RNG_PERIOD_MS / 1000.0 - 0.02);
}

static void broken_ring_needs_a_reset_and_gets_over_it(void **state)
{
	struct fixture *f = *state;
	struct drv_queue *q = &f->drv.q[0];
	uint64_t at;

	drv_start(&f->drv, f->d, 1, 0);
	at = drv_alloc(&f->drv, 64);
	drv_add(q, (struct seg[]){{RAM_BYTES, 64, true}}, 1);
	drv_kick(q);
	wait_for(needs_reset(f->d));
	assert_true(reg_read(f->d, VIRTIO_MMIO_INTERRUPT_STATUS) & VIRTIO_MMIO_INT_CONFIG);
	assert_int_equal(((struct virtio_device *)f->d)->broken, 1);
	/* Nothing works until the driver resets … */
	drv_add(q, (struct seg[]){{at, 64, true}}, 1);
	drv_kick(q);
	pause_device(f->d);
	resume_device(f->d);
	assert_int_equal(drv_used_idx(q), 0);
	/* … and then all does. */
	drv_start(&f->drv, f->d, 1, 0);
	q = &f->drv.q[0];
	drv_add(q, (struct seg[]){{at, 64, true}}, 1);
	drv_kick(q);
	assert_int_equal(drv_take(q, NULL), 64);
}

static void readable_buffer_is_no_request(void **state)
{
	struct fixture *f = *state;

	drv_start(&f->drv, f->d, 1, 0);
	drv_add(&f->drv.q[0], (struct seg[]){{4096, 64, false}}, 1);
	drv_kick(&f->drv.q[0]);
	wait_for(needs_reset(f->d));
}

/* ---- state ---------------------------------------------------------------------------------- */

static void quiet_device_does_nothing_and_then_all(void **state)
{
	struct fixture *f = *state;
	struct drv_queue *q = &f->drv.q[0];
	uint64_t at;

	drv_start(&f->drv, f->d, 1, 0);
	at = drv_alloc(&f->drv, 64);
	pause_device(f->d);
	drv_add(q, (struct seg[]){{at, 64, true}}, 1);
	drv_kick(q);
	for (unsigned i = 0; i < 20; i++) { /* the loop has time to get it wrong */
		poll(NULL, 0, 1);
		assert_int_equal(drv_used_idx(q), 0);
	}
	resume_device(f->d);
	assert_int_equal(drv_take(q, NULL), 64);
}

/* doc/snapshot-format.md, byte for byte. */
static void state_is_as_documented(void **state)
{
	struct fixture *f = *state;
	cleanup_writer struct writer w = WRITER_INIT;
	struct reader r;

	drv_start(&f->drv, f->d, 1, EVENT_IDX);
	pause_device(f->d);
	w = save_device(f->d);
	r = reader_of(w.p, w.len);
	assert_int_equal(get_u32(&r), VIRTIO_ID_RNG);
	assert_int_equal(get_u64(&r), VM_MMIO_BASE);
	assert_int_equal(get_u32(&r), f->d->gsi);
	assert_int_equal(get_u8(&r), 0xf);
	assert_int_equal(get_u32(&r), 0);
	assert_int_equal(get_u64(&r), EVENT_IDX | VIRTIO_BIT(VIRTIO_F_VERSION_1));
	assert_int_equal(get_u32(&r), 0);
	assert_int_equal(get_u32(&r), 1);
	assert_int_equal(get_u32(&r), 0);
	assert_int_equal(get_u16(&r), 1);
	assert_int_equal(get_u16(&r), TEST_QUEUE_SIZE);
	assert_int_equal(get_u8(&r), 1);
	assert_int_equal(get_u64(&r), f->drv.q[0].desc_gpa);
	assert_int_equal(get_u64(&r), f->drv.q[0].avail_gpa);
	assert_int_equal(get_u64(&r), f->drv.q[0].used_gpa);
	assert_int_equal(get_u16(&r), 0);
	assert_int_equal(get_u16(&r), 0);
	assert_true(reader_done(&r));
}

/* A second machine with the RAM of the first and nothing else of it. */
static struct vm *clone_machine(struct vm *from)
{
	struct vm *vm = machine();

	memcpy(vm->mem.region[0].hva, from->mem.region[0].hva, RAM_BYTES);
	return vm;
}

static void state_round_trips_into_a_working_device(void **state)
{
	struct fixture *f = *state;
	cleanup_writer struct writer w = WRITER_INIT;
	cleanup_writer struct writer again = WRITER_INIT;
	struct err err = ERR_INIT;
	struct drv_queue q;
	struct vm *vm;
	struct device *d;
	uint64_t at;

	drv_start(&f->drv, f->d, 1, EVENT_IDX);
	at = drv_alloc(&f->drv, 64);
	for (unsigned i = 0; i < 20; i++) {
		drv_add(&f->drv.q[0], (struct seg[]){{at, 64, true}}, 1);
		drv_kick(&f->drv.q[0]);
		drv_take(&f->drv.q[0], NULL);
	}
	pause_device(f->d);
	/* A request the device has not seen, and an interrupt the driver has not. */
	drv_add(&f->drv.q[0], (struct seg[]){{at, 64, true}}, 1);
	assert_int_equal(reg_read(f->d, VIRTIO_MMIO_INTERRUPT_STATUS), VIRTIO_MMIO_INT_VRING);
	w = save_device(f->d);

	vm = clone_machine(f->vm);
	assert_int_equal(virtio_rng_new(vm, "rng0", &err), 0);
	d = vm_find_device(vm, "rng0");
	count_irqs(d);
	machine_start(vm);
	assert_int_equal(load_device(d, w.p, w.len, &err), 0);
	again = save_device(d);
	assert_int_equal(again.len, w.len);
	assert_memory_equal(again.p, w.p, w.len);
	resume_device(d);
	q = f->drv.q[0];
	q.d = d;
	q.used = guest(vm, q.used_gpa);
	assert_int_equal(drv_take(&q, NULL), 64);
	assert_true(irqs(d) >= 1);
	machine_free(vm);
}

/* Each cut, and each byte at several values: refused or taken, but never out of bounds. */
static void hostile_state_is_refused_or_harmless(void **state)
{
	static const uint8_t flips[] = {0x01, 0x80, 0xff};
	struct fixture *f = *state;
	struct err err = ERR_INIT;
	unsigned refused = 0;
	struct writer w;

	drv_start(&f->drv, f->d, 1, 0);
	pause_device(f->d);
	w = save_device(f->d);
	for (size_t n = 0; n < w.len; n++)
		assert_int_equal(load_device(f->d, w.p, n, &err), -EBADMSG);
	for (size_t i = 0; i < w.len; i++) {
		for (unsigned k = 0; k < ARRAY_SIZE(flips); k++) {
			w.p[i] ^= flips[k];
			if (load_device(f->d, w.p, w.len, &err) < 0)
				refused++;
			resume_device(f->d);
			drv_kick(&f->drv.q[0]);
			pause_device(f->d);
			w.p[i] ^= flips[k];
		}
	}
	assert_true(refused > 60);
	assert_int_equal(load_device(f->d, w.p, w.len, &err), 0);
	writer_free(&w);
}

static void newer_state_is_refused_by_version(void **state)
{
	struct device *d = ((struct fixture *)*state)->d;
	struct reader r = reader_of("", 0);
	struct err err = ERR_INIT;

	assert_int_equal(d->ops->load(d, d->ops->version + 1, &r, &err), -ENOTSUP);
}

static void state_of_another_place_is_refused(void **state)
{
	struct fixture *f = *state;
	struct writer w = save_device(f->d);
	struct err err = ERR_INIT;
	struct vm *vm = machine();
	struct device *d;

	assert_int_equal(virtio_rng_new(vm, "other", &err), 0);
	assert_int_equal(virtio_rng_new(vm, "rng0", &err), 0);
	d = vm_find_device(vm, "rng0");
	assert_int_equal(load_device(d, w.p, w.len, &err), -EBADMSG);
	assert_non_null(strstr(err.msg, "devices differ"));
	machine_free(vm);
	writer_free(&w);
}

/* ---- pmem ----------------------------------------------------------------------------------- */

static int file_of(size_t bytes)
{
	int fd = memfd_create("pmem", MFD_CLOEXEC);

	assert_true(fd >= 0);
	for (size_t i = 0; i < bytes; i += 4096)
		assert_int_equal(pwrite(fd, "page", MIN((size_t)4, bytes - i), (off_t)i),
				 MIN((size_t)4, bytes - i));
	return fd;
}

static void pmem_is_a_read_only_region_behind_ram(void **state)
{
	struct vm *vm = machine();
	int fd = file_of(3 * MIB + 4098);
	struct vm_pmem p = {.id = "pmem-rootfs", .fd = fd, .path = "rootfs"};
	struct err err = ERR_INIT;
	struct memory_region *r;
	struct device *d;

	assert_int_equal(virtio_pmem_map(&vm->mem, &p, &err), 0);
	assert_int_equal(virtio_pmem_map(&vm->mem, &p, &err), 0);
	close(fd);
	r = &vm->mem.region[1];
	assert_int_equal(r->kind, MEMORY_PMEM);
	assert_true(r->readonly);
	assert_int_equal(r->size, 4 * MIB);
	assert_int_equal(r->gpa, MEMORY_HOLE_END);
	assert_int_equal(vm->mem.region[2].gpa, MEMORY_HOLE_END + VIRTIO_PMEM_GAP);
	assert_int_equal((uintptr_t)r->hva % VM_PMEM_ALIGN, 0);
	assert_memory_equal(r->hva + 3 * MIB, "page", 4);
	assert_int_equal(r->hva[4 * MIB - 1], 0);
	/* No ring of any device can lie there. */
	assert_null(memory_at(&vm->mem, r->gpa, 1));

	assert_int_equal(virtio_pmem_new(vm, "pmem-rootfs", 0, &err), 0);
	assert_int_equal(virtio_pmem_new(vm, "pmem-1", 1, &err), 0);
	assert_int_equal(virtio_pmem_new(vm, "pmem-2", 2, &err), -EINVAL);
	d = vm_find_device(vm, "pmem-1");
	assert_int_equal(config64(d, 0), MEMORY_HOLE_END + VIRTIO_PMEM_GAP);
	assert_int_equal(config64(d, 8), 4 * MIB);
	assert_int_equal(config64(d, 16), 0);
	machine_free(vm);
}

static void pmem_needs_a_file_with_bytes(void **state)
{
	struct vm *vm = machine();
	struct vm_pmem p = {.id = "p", .fd = file_of(0), .path = "empty"};
	struct err err = ERR_INIT;

	assert_int_equal(virtio_pmem_map(&vm->mem, &p, &err), -EINVAL);
	close(p.fd);
	p.fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	assert_int_equal(virtio_pmem_map(&vm->mem, &p, &err), -EINVAL);
	close(p.fd);
	machine_free(vm);
}

static void pmem_flush_succeeds_and_its_state_knows_the_place(void **state)
{
	struct vm *vm = machine();
	struct vm_pmem p = {.id = "pmem0", .fd = file_of(MIB), .path = "file"};
	struct err err = ERR_INIT;
	struct device *d;
	struct writer w;
	struct drv drv;
	uint64_t at;

	assert_int_equal(virtio_pmem_map(&vm->mem, &p, &err), 0);
	assert_int_equal(virtio_pmem_new(vm, "pmem0", 0, &err), 0);
	d = vm_find_device(vm, "pmem0");
	machine_start(vm);
	drv_start(&drv, d, 1, EVENT_IDX);
	at = drv_alloc(&drv, 64);
	memset(guest(vm, at), 0xff, 64);
	memset(guest(vm, at), 0, 4); /* VIRTIO_PMEM_REQ_TYPE_FLUSH */
	drv_add(&drv.q[0], (struct seg[]){{at, 4, false}, {at + 32, 4, true}}, 2);
	drv_kick(&drv.q[0]);
	assert_int_equal(drv_take(&drv.q[0], NULL), 4);
	assert_memory_equal(guest(vm, at + 32), "\0\0\0\0", 4);

	pause_device(d);
	w = save_device(d);
	assert_int_equal(load_device(d, w.p, w.len, &err), 0);
	w.p[w.len - 16 + 3] ^= 0x10; /* of `start` */
	assert_int_equal(load_device(d, w.p, w.len, &err), -EBADMSG);
	assert_non_null(strstr(err.msg, "another image"));
	writer_free(&w);
	close(p.fd);
	machine_free(vm);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(says_what_it_is),
		TEST(features_must_be_offered),
		TEST(queue_cannot_change_under_a_running_driver),
		TEST(queue_outside_ram_breaks_the_device),
		TEST(rng_fills_buffers),
		TEST(rng_rate_is_bounded_and_goes_on),
		TEST(broken_ring_needs_a_reset_and_gets_over_it),
		TEST(readable_buffer_is_no_request),
		TEST(quiet_device_does_nothing_and_then_all),
		TEST(state_is_as_documented),
		TEST(state_round_trips_into_a_working_device),
		TEST(hostile_state_is_refused_or_harmless),
		TEST(newer_state_is_refused_by_version),
		TEST(state_of_another_place_is_refused),
		cmocka_unit_test(pmem_is_a_read_only_region_behind_ram),
		cmocka_unit_test(pmem_needs_a_file_with_bytes),
		cmocka_unit_test(pmem_flush_succeeds_and_its_state_knows_the_place),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
