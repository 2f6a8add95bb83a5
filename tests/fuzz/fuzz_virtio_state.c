/*
 * A snapshot that says whatever it likes about a device, with RAM to match.
 *
 * Input: which device, patches to the state of one that is up (a count, then offset and value of
 * each), then what its rings hold. A state that is accepted must be saved again as the same bytes,
 * and the device must live with it: all queues are notified, and nothing may go out of bounds. Raw
 * states are tried too: with them the length is what varies.
 */
#include <fcntl.h>
#include <linux/virtio_mmio.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "runner/devices/virtio_blk.h"
#include "runner/devices/virtio_mmio.h"
#include "runner/devices/virtio_pmem.h"
#include "runner/devices/virtio_rng.h"
#include "runner/devices/virtio_vsock.h"
#include "smfs/base/log.h"

#define RAM   (2 * MIB)
#define KINDS 4
#define DATA  0x1000u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define must(x)                  \
	do {                     \
		if (!(x))        \
			abort(); \
	} while (0)

static void add_device(struct vm *vm, unsigned kind)
{
	struct vm_pmem p = {.id = "d", .path = "memfd"};
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/tmp/fuzz-virtio.%d", getpid());
	if (kind == 0) {
		must(virtio_rng_new(vm, "d", NULL) == 0);
	} else if (kind == 1) {
		fd = memfd_create("pmem", MFD_CLOEXEC);
		must(fd >= 0 && ftruncate(fd, MIB) == 0);
		p.fd = fd;
		must(virtio_pmem_map(&vm->mem, &p, NULL) == 0);
		must(virtio_pmem_new(vm, "d", 0, NULL) == 0);
		close(fd);
	} else if (kind == 2) {
		struct disk *disk;

		fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
		must(fd >= 0 && ftruncate(fd, MIB) == 0);
		must(disk_open("d", path, false, &disk, NULL) == 0);
		must(virtio_blk_new(vm, "d", disk, NULL) == 0);
		close(fd);
		unlink(path);
	} else {
		must(virtio_vsock_new(vm, "d", 3, path, NULL) == 0);
	}
}

static void live(struct virtio_device *v)
{
	struct device *d = &v->dev;

	d->ops->resume(d);
	for (unsigned round = 0; round < 2; round++)
		for (unsigned i = 0; i < v->vops->nqueues; i++)
			if (virtio_live(v) && v->queue[i].ready)
				v->vops->notify(v, i);
	must(d->ops->quiesce(d, NULL) == 0);
	d->ops->resume(d);
	d->ops->write(d, VIRTIO_MMIO_STATUS, 4, 0);
}

static void reg(struct device *d, uint64_t off, uint32_t value)
{
	d->ops->write(d, off, 4, value);
}

/* Up, with small rings at the start of RAM. */
static void drive(struct device *d)
{
	uint32_t status = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;

	reg(d, VIRTIO_MMIO_STATUS, status);
	reg(d, VIRTIO_MMIO_DRIVER_FEATURES, 1u << VIRTIO_RING_F_EVENT_IDX);
	reg(d, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
	reg(d, VIRTIO_MMIO_DRIVER_FEATURES, 1);
	status |= VIRTIO_CONFIG_S_FEATURES_OK;
	reg(d, VIRTIO_MMIO_STATUS, status);
	for (unsigned i = 0; i < ((struct virtio_device *)d)->vops->nqueues; i++) {
		reg(d, VIRTIO_MMIO_QUEUE_SEL, i);
		reg(d, VIRTIO_MMIO_QUEUE_NUM, 8);
		reg(d, VIRTIO_MMIO_QUEUE_DESC_LOW, i * 0x100);
		reg(d, VIRTIO_MMIO_QUEUE_AVAIL_LOW, i * 0x100 + 0x80);
		reg(d, VIRTIO_MMIO_QUEUE_USED_LOW, i * 0x100 + 0xa0);
		reg(d, VIRTIO_MMIO_QUEUE_READY, 1);
	}
	reg(d, VIRTIO_MMIO_STATUS, status | VIRTIO_CONFIG_S_DRIVER_OK);
	must(d->ops->read(d, VIRTIO_MMIO_STATUS, 4) == (status | VIRTIO_CONFIG_S_DRIVER_OK));
}

/* Four bytes a descriptor, all plausible, and what is left is data. */
static void fill_rings(uint8_t *ram, struct reader *r)
{
	for (unsigned q = 0; q < VIRTIO_MAX_QUEUES; q++) {
		struct vring_desc d[8];
		uint16_t avail[2 + 8] = {0, get_u8(r) % 9};

		for (unsigned i = 0; i < 8; i++) {
			d[i] = (struct vring_desc){.addr = DATA + 64ull * get_u8(r)};
			d[i].len = 1u << get_u8(r) % 18;
			d[i].flags = get_u8(r) % 4;
			d[i].next = (i + 1) % 8;
			avail[2 + i] = get_u8(r) % 8;
		}
		memcpy(ram + q * 0x100, d, sizeof(d));
		memcpy(ram + q * 0x100 + 0x80, avail, sizeof(avail));
	}
	memcpy(ram + DATA, r->p, MIN(r->left, (size_t)(RAM - DATA)));
}

static void try_state(struct device *d, const uint8_t *p, size_t n)
{
	struct reader r = reader_of(p, n);
	cleanup_writer struct writer again = WRITER_INIT;

	if (d->ops->load(d, d->ops->version, &r, NULL) < 0)
		return;
	d->ops->save(d, &again);
	must(again.len == n && memcmp(again.p, p, n) == 0);
	live((struct virtio_device *)d);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct reader r = reader_of(data, size);
	cleanup_writer struct writer w = WRITER_INIT;
	struct vm *vm = calloc(1, sizeof(*vm));
	struct device *d;
	unsigned kind = get_u8(&r), patches;

	log_init("fuzz", LOG_ERR);
	must(vm != NULL);
	vm->fd = vm->kvm_fd = vm->end_fd = -1;
	vm->next_gsi = 6;
	vm->next_mmio = VM_MMIO_BASE;
	pthread_mutex_init(&vm->dev_lock, NULL);
	must(memory_layout(&vm->mem, RAM, NULL) == 0 && memory_map_anon(&vm->mem, NULL) == 0);
	must(loop_new(&vm->loop, NULL) == 0);
	add_device(vm, kind % KINDS);
	d = vm->devices;
	drive(d);
	must(d->ops->quiesce(d, NULL) == 0);
	d->ops->save(d, &w);
	if (kind & 0x80) {
		try_state(d, r.p, r.left);
	} else {
		for (patches = get_u8(&r) % 8; patches; patches--) {
			size_t at = get_u8(&r) % w.len;

			w.p[at] = get_u8(&r);
		}
		fill_rings(vm->mem.region[0].hva, &r);
		try_state(d, w.p, w.len);
	}
	d->ops->free(d);
	loop_free(vm->loop);
	memory_free(&vm->mem);
	pthread_mutex_destroy(&vm->dev_lock);
	free(vm);
	return 0;
}
