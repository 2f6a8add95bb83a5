/*
 * virtio_driver.h - for the tests of virtio devices: a machine without KVM, and a driver for its
 * devices that works as a guest's would, or as a hostile one's.
 *
 * The machine is a struct vm with 8 MiB of RAM, a loop on a thread of its own, and no VM
 * descriptor: notifications go through the register. The test is the vCPU: register accesses
 * take the device lock, ring memory does not.
 */
#ifndef TESTS_UNIT_VIRTIO_DRIVER_H
#define TESTS_UNIT_VIRTIO_DRIVER_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <linux/virtio_mmio.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "runner/devices/virtio_mmio.h"
#include "smfs/base/num.h"

#define RAM_BYTES	(8ull << 20)
#define TEST_QUEUE_SIZE 16

static inline void lock_devices(void *vm)
{
	pthread_mutex_lock(&((struct vm *)vm)->dev_lock);
}

static inline void unlock_devices(void *vm)
{
	pthread_mutex_unlock(&((struct vm *)vm)->dev_lock);
}

static inline void *loop_thread(void *vm)
{
	loop_run(((struct vm *)vm)->loop, NULL);
	return NULL;
}

static inline struct vm *machine(void)
{
	struct vm *vm = calloc(1, sizeof(*vm));
	struct err err = ERR_INIT;

	assert_non_null(vm);
	vm->fd = vm->kvm_fd = vm->end_fd = -1;
	vm->next_gsi = 6;
	vm->next_mmio = VM_MMIO_BASE;
	pthread_mutex_init(&vm->dev_lock, NULL);
	assert_int_equal(memory_layout(&vm->mem, RAM_BYTES, &err), 0);
	assert_int_equal(memory_map_anon(&vm->mem, &err), 0);
	assert_int_equal(loop_new(&vm->loop, &err), 0);
	loop_set_guard(vm->loop, lock_devices, unlock_devices, vm);
	return vm;
}

static inline void machine_start(struct vm *vm)
{
	assert_int_equal(pthread_create(&vm->loop_thread, NULL, loop_thread, vm), 0);
	vm->running = true;
}

static inline void machine_free(struct vm *vm)
{
	if (vm->running) {
		loop_stop(vm->loop);
		pthread_join(vm->loop_thread, NULL);
	}
	for (struct device *d = vm->devices, *next; d; d = next) {
		next = d->next;
		if (d->irq_fd >= 0)
			close(d->irq_fd);
		d->ops->free(d);
	}
	loop_free(vm->loop);
	memory_free(&vm->mem);
	pthread_mutex_destroy(&vm->dev_lock);
	free(vm);
}

static inline double seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Poll for `condition`, which the loop's thread makes true. */
#define wait_for(condition)                                                    \
	do {                                                                   \
		double end_ = seconds() + 60;                                  \
		while (!(condition)) {                                         \
			if (seconds() > end_)                                  \
				fail_msg("waited in vain for %s", #condition); \
			poll(NULL, 0, 1);                                      \
		}                                                              \
	} while (0)

/* ---- registers ------------------------------------------------------------------------------ */

static inline uint32_t reg_read(struct device *d, uint64_t off)
{
	uint32_t v;

	lock_devices(d->vm);
	v = (uint32_t)d->ops->read(d, off, 4);
	unlock_devices(d->vm);
	return v;
}

static inline void reg_write(struct device *d, uint64_t off, uint32_t value)
{
	lock_devices(d->vm);
	d->ops->write(d, off, 4, value);
	unlock_devices(d->vm);
}

static inline uint64_t config64(struct device *d, uint64_t off)
{
	uint64_t v;

	lock_devices(d->vm);
	v = d->ops->read(d, VIRTIO_MMIO_CONFIG + off, 8);
	unlock_devices(d->vm);
	return v;
}

static inline bool needs_reset(struct device *d)
{
	return reg_read(d, VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET;
}

/* ---- the driver's rings --------------------------------------------------------------------- */

struct drv_queue {
	struct device *d;
	unsigned index;
	uint16_t size, avail_idx, last_used, next_desc;
	uint64_t desc_gpa, avail_gpa, used_gpa;
	struct vring_desc *desc;
	uint16_t *avail; /* flags, idx, ring */
	uint16_t *used;
};

struct drv {
	struct vm *vm;
	struct device *d;
	uint64_t features;
	uint64_t heap; /* next free guest byte */
	unsigned nqueues;
	struct drv_queue q[VIRTIO_MAX_QUEUES];
};

static inline void *guest(struct vm *vm, uint64_t gpa)
{
	return vm->mem.region[0].hva + gpa;
}

static inline uint64_t drv_alloc(struct drv *v, uint64_t bytes)
{
	uint64_t at = v->heap;

	v->heap = align_up(at + bytes, 64);
	assert_true(v->heap < RAM_BYTES);
	return at;
}

static inline void drv_queue(struct drv *v, unsigned i, uint16_t size)
{
	struct drv_queue *q = &v->q[i];

	*q = (struct drv_queue){.d = v->d, .index = i, .size = size};
	q->desc_gpa = drv_alloc(v, 16ull * size);
	q->avail_gpa = drv_alloc(v, 6 + 2ull * size);
	q->used_gpa = drv_alloc(v, 6 + 8ull * size);
	q->desc = guest(v->vm, q->desc_gpa);
	q->avail = guest(v->vm, q->avail_gpa);
	q->used = guest(v->vm, q->used_gpa);
	memset(q->avail, 0, 6 + 2ull * size);
	memset(q->used, 0, 6 + 8ull * size);
	reg_write(v->d, VIRTIO_MMIO_QUEUE_SEL, i);
	reg_write(v->d, VIRTIO_MMIO_QUEUE_NUM, size);
	reg_write(v->d, VIRTIO_MMIO_QUEUE_DESC_LOW, (uint32_t)q->desc_gpa);
	reg_write(v->d, VIRTIO_MMIO_QUEUE_DESC_HIGH, (uint32_t)(q->desc_gpa >> 32));
	reg_write(v->d, VIRTIO_MMIO_QUEUE_AVAIL_LOW, (uint32_t)q->avail_gpa);
	reg_write(v->d, VIRTIO_MMIO_QUEUE_AVAIL_HIGH, (uint32_t)(q->avail_gpa >> 32));
	reg_write(v->d, VIRTIO_MMIO_QUEUE_USED_LOW, (uint32_t)q->used_gpa);
	reg_write(v->d, VIRTIO_MMIO_QUEUE_USED_HIGH, (uint32_t)(q->used_gpa >> 32));
	reg_write(v->d, VIRTIO_MMIO_QUEUE_READY, 1);
}

/* Reset, negotiate VERSION_1 and `features`, set up all queues, DRIVER_OK. */
static inline void drv_start(struct drv *v, struct device *d, unsigned nqueues, uint64_t features)
{
	uint32_t status = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;

	*v = (struct drv){.vm = d->vm, .d = d, .heap = 1 << 20, .nqueues = nqueues};
	v->features = features | VIRTIO_BIT(VIRTIO_F_VERSION_1);
	reg_write(d, VIRTIO_MMIO_STATUS, 0);
	reg_write(d, VIRTIO_MMIO_STATUS, status);
	for (unsigned i = 0; i < 2; i++) {
		reg_write(d, VIRTIO_MMIO_DRIVER_FEATURES_SEL, i);
		reg_write(d, VIRTIO_MMIO_DRIVER_FEATURES, (uint32_t)(v->features >> 32 * i));
	}
	status |= VIRTIO_CONFIG_S_FEATURES_OK;
	reg_write(d, VIRTIO_MMIO_STATUS, status);
	assert_int_equal(reg_read(d, VIRTIO_MMIO_STATUS), status);
	for (unsigned i = 0; i < nqueues; i++)
		drv_queue(v, i, TEST_QUEUE_SIZE);
	reg_write(d, VIRTIO_MMIO_STATUS, status | VIRTIO_CONFIG_S_DRIVER_OK);
	assert_false(needs_reset(d));
}

struct seg {
	uint64_t gpa;
	uint32_t len;
	bool write;
};

static inline void drv_offer(struct drv_queue *q, uint16_t head)
{
	q->avail[2 + q->avail_idx % q->size] = head;
	q->avail_idx++;
	__atomic_store_n(&q->avail[1], q->avail_idx, __ATOMIC_SEQ_CST);
}

/* A chain of `n` segments in the next descriptors: its head. No kick. */
static inline uint16_t drv_add(struct drv_queue *q, const struct seg *s, unsigned n)
{
	uint16_t head = q->next_desc % q->size;

	for (unsigned i = 0; i < n; i++) {
		struct vring_desc *d = &q->desc[q->next_desc++ % q->size];

		*d = (struct vring_desc){.addr = s[i].gpa, .len = s[i].len};
		d->flags =
			(s[i].write ? VRING_DESC_F_WRITE : 0) | (i + 1 < n ? VRING_DESC_F_NEXT : 0);
		d->next = q->next_desc % q->size;
	}
	drv_offer(q, head);
	return head;
}

static inline void drv_kick(struct drv_queue *q)
{
	reg_write(q->d, VIRTIO_MMIO_QUEUE_NOTIFY, q->index);
}

static inline uint16_t drv_used_idx(const struct drv_queue *q)
{
	return __atomic_load_n(&q->used[1], __ATOMIC_SEQ_CST);
}

/* The next used entry; waits for it. Returns its length. */
static inline uint32_t drv_take(struct drv_queue *q, uint16_t *head)
{
	uint32_t entry[2];

	wait_for(drv_used_idx(q) != q->last_used);
	memcpy(entry, &q->used[2 + 4 * (q->last_used % q->size)], sizeof(entry));
	q->last_used++;
	if (head)
		*head = (uint16_t)entry[0];
	return entry[1];
}

/* ---- interrupts and state ------------------------------------------------------------------- */

/* Have the device's interrupts counted. Before the machine starts. */
static inline void count_irqs(struct device *d)
{
	d->irq_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	assert_true(d->irq_fd >= 0);
}

static inline uint64_t irqs(struct device *d)
{
	uint64_t n = 0;

	return read(d->irq_fd, &n, sizeof(n)) == sizeof(n) ? n : 0;
}

static inline void pause_device(struct device *d)
{
	struct err err = ERR_INIT;

	lock_devices(d->vm);
	assert_int_equal(d->ops->quiesce(d, &err), 0);
	unlock_devices(d->vm);
}

static inline void resume_device(struct device *d)
{
	lock_devices(d->vm);
	d->ops->resume(d);
	unlock_devices(d->vm);
}

static inline struct writer save_device(struct device *d)
{
	struct writer w = WRITER_INIT;

	lock_devices(d->vm);
	d->ops->save(d, &w);
	unlock_devices(d->vm);
	assert_false(w.failed);
	return w;
}

static inline int load_device(struct device *d, const void *p, size_t n, struct err *err)
{
	struct reader r = reader_of(p, n);
	int ret;

	lock_devices(d->vm);
	ret = d->ops->load(d, d->ops->version, &r, err);
	unlock_devices(d->vm);
	return ret;
}

#endif
