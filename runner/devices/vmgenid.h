/*
 * vmgenid.h - the virtual machine generation ID: 16 bytes at LAYOUT_VMGENID that change whenever
 * the guest's past forked, and an event that says so.
 *
 * In the DSDT: VMGENCTR / "VM_Gen_Counter" with the address, and a generic event device
 * (ACPI0013) whose interrupt notifies it with 0x80.
 */
#ifndef RUNNER_DEVICES_VMGENID_H
#define RUNNER_DEVICES_VMGENID_H

#include <stdbool.h>
#include <stdint.h>

#include "runner/vm/device.h"

#define VMGENID_LEN 16

/* Creates "vmgenid" and adds it. Touches no guest memory. */
int vmgenid_new(struct vm *vm, struct device **out, struct err *err);

/*
 * Write a new ID into guest RAM; `notify` raises the event. Before the first vm_start(), or
 * with the VM paused; on a restore after vm_irq_state_set(), which would forget the interrupt.
 */
int vmgenid_set(struct device *d, const uint8_t id[VMGENID_LEN], bool notify, struct err *err);

#endif
