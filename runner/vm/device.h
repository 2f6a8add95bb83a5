/*
 * device.h - what every device model is to the machine: a few operations over one object.
 *
 * A device is created by its own `<name>_new(...)`, which fills a struct device and is handed to
 * vm_add_device(). It is known by a stable `id` ("serial0", "pmem-rootfs", "vsock0"); snapshots
 * address devices by id, never by position.
 *
 * LOCK. Every operation runs with the VM's device lock held: register accesses come from vCPU
 * threads, queue work and descriptors from the I/O thread, save and load with everything quiet.
 * So a device has no locks. No operation blocks.
 *
 * SAVE WALKS ONE TABLE: the VM's device list. save() appends the device's state to a writer; load()
 * gets exactly those bytes back in a freshly created device of the same configuration and must
 * refuse (EBADMSG) anything out of range: a snapshot is input like any other. A device without
 * state has neither. `version` is stored beside the bytes; load() is given the stored one and
 * refuses a newer one with ENOTSUP.
 */
#ifndef RUNNER_VM_DEVICE_H
#define RUNNER_VM_DEVICE_H

#include <stdint.h>

#include "smfs/base/bytes.h"
#include "smfs/base/err.h"

struct vm;
struct device;

struct device_ops {
	const char *type; /* "serial", "virtio-pmem" */
	uint16_t version; /* of save()'s bytes */

	/* `off` is relative to the device's window. `len` is 1, 2, 4 or 8. */
	uint64_t (*read)(struct device *d, uint64_t off, unsigned len);
	void (*write)(struct device *d, uint64_t off, unsigned len, uint64_t value);

	/*
	 * Stop taking work and finish or withdraw what is in flight, so that save() is whole and
	 * no completion arrives later. vCPUs are stopped. NULL: nothing in flight, ever.
	 */
	int (*quiesce)(struct device *d, struct err *err);
	void (*save)(struct device *d, struct writer *w);
	int (*load)(struct device *d, uint16_t version, struct reader *r, struct err *err);
	/* After quiesce (snapshot taken) or load (restored): start again, re-examine all queues. */
	void (*resume)(struct device *d);

	/*
	 * Append the device's AML to the DSDT body (x86/aml.h), NULL if it needs none.
	 * `w` is inside Scope(_SB).
	 */
	void (*aml)(struct device *d, struct writer *w);
	void (*free)(struct device *d);
};

enum device_bus { BUS_NONE, BUS_PIO, BUS_MMIO };

struct device {
	const struct device_ops *ops;
	char id[32];
	struct vm *vm;
	enum device_bus bus;
	uint64_t base, size; /* its window */
	int gsi;	     /* -1: none */
	int irq_fd;	     /* eventfd of the irqfd for gsi, -1: none. device_irq() uses it */
	struct device *next; /* in the VM's list, in order of creation */
};

/* Raise the device's (edge) interrupt. */
void device_irq(struct device *d);

#endif
