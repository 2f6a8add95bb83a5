/*
 * pm.h - power off and reset, the two things a guest may ask of the machine.
 *
 * "pm": three byte ports at LAYOUT_PM_PORT as hardware-reduced ACPI wants them: sleep control
 * (write SLP_EN with sleep type 5: VM_SHUTDOWN), sleep status, reset (PM_RESET_VALUE: VM_RESET).
 * "i8042": a keyboard controller without keyboard, whose reset pulse (0xfe to port 0x64) is
 * VM_RESET; for kernels that reboot by it.
 */
#ifndef RUNNER_DEVICES_PM_H
#define RUNNER_DEVICES_PM_H

#include "runner/vm/device.h"

#define PM_SLEEP_CONTROL 0
#define PM_SLEEP_STATUS	 1
#define PM_RESET	 2
#define PM_PORTS	 3
#define PM_SLEEP_ENABLE	 0x20
#define PM_SLEEP_TYPE_S5 5
#define PM_RESET_VALUE	 1

int pm_new(struct vm *vm, struct err *err);
int i8042_new(struct vm *vm, struct err *err);

#endif
