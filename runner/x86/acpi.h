/*
 * acpi.h - the ACPI tables of the machine: RSDP, XSDT, FADT, MADT, DSDT.
 *
 * Hardware-reduced ACPI (ACPI 6.5, 4.1): no PM timer, no SCI, no power button; the guest sleeps
 * and resets through the two registers of devices/pm.h, and events come by a generic event
 * device (devices/vmgenid.h). The DSDT is what the devices' aml() hooks append, in list order.
 */
#ifndef RUNNER_X86_ACPI_H
#define RUNNER_X86_ACPI_H

#include <stdint.h>

#include "smfs/base/err.h"

struct vm;

/* Write the tables into the guest at LAYOUT_ACPI; *rsdp is where the guest finds the first. */
int acpi_write(struct vm *vm, uint64_t *rsdp, struct err *err);

#endif
