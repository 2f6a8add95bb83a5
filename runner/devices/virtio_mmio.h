/*
 * virtio_mmio.h - the virtio-mmio transport (virtio 1.2, section 4.2, version 2 only) under every
 * virtio device.
 *
 * A device embeds a struct virtio_device, says what it is in a struct virtio_ops, and calls
 * virtio_device_init(), then vm_add_device(). The transport owns registers, feature negotiation,
 * status, queues and the common part of the state; the device owns what the queues mean.
 *
 * NOTIFY. Queue work happens on the I/O thread only. Each queue has an eventfd on the loop, which
 * KVM signals itself (KVM_IOEVENTFD) once the driver is up; a QueueNotify write that reaches us
 * anyway signals the same eventfd. virtio_kick() does so too: a device that has done its share of a
 * busy queue kicks itself and lets others run.
 *
 * BREAKING. A driver that breaks the rules of a ring breaks its device, never the VMM:
 * virtio_break() sets DEVICE_NEEDS_RESET, tells the driver, logs (the first few times) and
 * counts. No queue of the device is looked at again until the driver resets it.
 *
 * QUIET. Between quiesce and resume, and from load to resume, `quiet` is set and no notification is
 * delivered. resume() kicks all queues and interrupts if the driver has an interrupt
 * unacknowledged, so none is lost on the way.
 *
 * Threads: the device lock is held. Register accesses come from vCPU threads, so `reset` and
 * `activate` do too: they must not touch the loop.
 */
#ifndef RUNNER_DEVICES_VIRTIO_MMIO_H
#define RUNNER_DEVICES_VIRTIO_MMIO_H

#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <stdbool.h>
#include <stdint.h>

#include "runner/devices/virtqueue.h"
#include "runner/vm/vm.h"
#include "smfs/base/num.h"

#define VIRTIO_MAX_QUEUES 4
#define VIRTIO_MMIO_SIZE  0x200ull
#define VIRTIO_BIT(n)	  (1ull << (n))

struct virtio_device;

struct virtio_ops {
	uint32_t device_id; /* of <linux/virtio_ids.h> */
	uint64_t features;  /* offered beside VERSION_1 and EVENT_IDX */
	unsigned nqueues;
	uint16_t queue_size; /* the most offered */
	uint32_t chain_max;  /* bytes in one chain */

	/* The config space, read only and constant; `config_len` bytes, little-endian. NULL: none.
	 */
	const void *(*config)(struct virtio_device *v, unsigned *config_len);
	/* Queue `q` has work, or had. I/O thread. */
	void (*notify)(struct virtio_device *v, unsigned q);
	/* The driver said DRIVER_OK; may be NULL. vCPU thread. */
	void (*activate)(struct virtio_device *v);
	/* Forget everything of the driver's; what is in flight must not come back. vCPU thread. */
	void (*reset)(struct virtio_device *v);

	/* As in struct device_ops, for the device's own part; each may be NULL. */
	int (*quiesce)(struct virtio_device *v, struct err *err);
	void (*save)(struct virtio_device *v, struct writer *w);
	int (*load)(struct virtio_device *v, uint16_t version, struct reader *r, struct err *err);
	void (*resume)(struct virtio_device *v);
	void (*free)(struct virtio_device *v);
};

struct virtio_device {
	struct device dev; /* first: a struct device * of ours is one of these */
	const struct virtio_ops *vops;
	uint64_t offered; /* vops->features plus what this instance adds or removes */

	/* Registers. */
	uint8_t status;
	uint32_t interrupt_status;
	uint64_t driver_features;
	uint32_t device_features_sel, driver_features_sel, queue_sel;

	struct virtqueue queue[VIRTIO_MAX_QUEUES];
	struct virtio_notify {
		struct virtio_device *v;
		struct loop_watch *watch;
		int fd;
		bool registered; /* with KVM */
	} notify[VIRTIO_MAX_QUEUES];

	bool quiet;
	uint64_t broken; /* times, for statistics */
};

/* The struct device_ops of a virtio device: {VIRTIO_DEVICE_OPS, .type = …, .version, .class}. */
#define VIRTIO_DEVICE_OPS                                                                     \
	.read = virtio_mmio_read, .write = virtio_mmio_write, .quiesce = virtio_mmio_quiesce, \
	.save = virtio_mmio_save, .load = virtio_mmio_load, .resume = virtio_mmio_resume,     \
	.aml = virtio_mmio_aml, .free = virtio_mmio_free

/*
 * Everything but vm_add_device(). Watches go on vm->loop. On failure nothing is left behind but
 * the memory of `v`.
 */
int virtio_device_init(struct virtio_device *v, struct vm *vm, const char *id,
		       const struct device_ops *ops, const struct virtio_ops *vops,
		       struct err *err);
/*
 * The end of every constructor: hand `v` to the VM. On failure the device is freed
 * through its `free` operation.
 */
int virtio_device_add(struct virtio_device *v, struct err *err);
/* What virtio_device_init() made. The device's `free` releases the memory. */
void virtio_device_fini(struct virtio_device *v);

/* The driver is up and the device neither broken nor quiet: queues may be used. */
bool virtio_live(const struct virtio_device *v);
bool virtio_has(const struct virtio_device *v, unsigned feature);
/* Interrupt for what was pushed on `q`, if the driver wants to hear. */
void virtio_used(struct virtio_device *v, unsigned q);
void virtio_break(struct virtio_device *v, const char *why);
/* Have notify(v, q) called from the loop. Any thread. */
void virtio_kick(struct virtio_device *v, unsigned q);

uint64_t virtio_mmio_read(struct device *d, uint64_t off, unsigned len);
void virtio_mmio_write(struct device *d, uint64_t off, unsigned len, uint64_t value);
int virtio_mmio_quiesce(struct device *d, struct err *err);
void virtio_mmio_save(struct device *d, struct writer *w);
int virtio_mmio_load(struct device *d, uint16_t version, struct reader *r, struct err *err);
void virtio_mmio_resume(struct device *d);
void virtio_mmio_free(struct device *d);
void virtio_mmio_aml(struct device *d, struct writer *w);

#endif
