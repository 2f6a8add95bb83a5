/*
 * serial.h - a 16550A at COM1, enough for Linux's 8250 driver and for console=ttyS0.
 *
 * Output goes byte by byte to a sink, which must not block; the transmitter is always empty.
 * Input comes from serial_input() or from a descriptor the device watches; a byte that finds the
 * receive buffer (4 KiB) full is not taken, so the source keeps it.
 *
 * All calls with the device lock held (device.h), except before vm_start().
 */
#ifndef RUNNER_DEVICES_SERIAL_H
#define RUNNER_DEVICES_SERIAL_H

#include <stddef.h>
#include <stdint.h>

#include "runner/vm/device.h"

/* `n` is at least 1. */
typedef void (*serial_sink)(void *arg, const uint8_t *p, size_t n);

/* Creates "serial0" and adds it to the VM. `sink` may be NULL: output is dropped. */
int serial_new(struct vm *vm, serial_sink sink, void *arg, struct device **out, struct err *err);

/* Bytes for the guest. Returns how many were taken (0 when full). */
size_t serial_input(struct device *d, const void *p, size_t n);

/*
 * Read input from `fd` (non-blocking, not owned) whenever the guest has room; end of file or an
 * error ends the watching. -1 stops it.
 */
int serial_watch_input(struct device *d, int fd, struct err *err);

#endif
