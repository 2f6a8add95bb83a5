/*
 * bus.h - address to device: the port and the MMIO space are one sorted table each.
 *
 * Windows never overlap. The tables are fixed once the VM starts, so lookups need no lock; the
 * access itself runs under the VM's device lock, taken by the caller.
 */
#ifndef RUNNER_VM_BUS_H
#define RUNNER_VM_BUS_H

#include <stdbool.h>
#include <stdint.h>

#include "smfs/base/err.h"

#define BUS_MAX_DEVICES 40

struct device;

struct bus {
	struct device *dev[BUS_MAX_DEVICES]; /* by base */
	unsigned n;
};

/* -EEXIST when the window overlaps another device's. */
int bus_add(struct bus *b, struct device *d, struct err *err);

/* The device whose window holds all of [addr, addr+len), else NULL. */
struct device *bus_find(const struct bus *b, uint64_t addr, unsigned len);

/*
 * One access of 1, 2, 4 or 8 bytes, little endian. What no device claims reads as all ones and
 * swallows writes, as on a PC; an access that straddles a window's edge counts as unclaimed.
 */
void bus_access(const struct bus *b, uint64_t addr, void *data, unsigned len, bool write);

#endif
