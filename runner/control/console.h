/*
 * console.h - the host side of the guest's serial console: a log file and any number of viewers.
 *
 * Everything the guest writes goes to console.log (at most CONSOLE_LOG_MAX, then the older half
 * is dropped) and to the attached descriptors; a viewer that does not keep up loses bytes, the
 * guest never waits. What a viewer sends is typed into the guest.
 *
 * Threads: console_output() runs under the device lock; attaching goes through loop_call().
 */
#ifndef RUNNER_CONTROL_CONSOLE_H
#define RUNNER_CONTROL_CONSOLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runner/vm/loop.h"
#include "smfs/base/err.h"

#define CONSOLE_LOG_MAX (8u << 20)

struct console;

/* `type` delivers input bytes to the guest's UART, with the device lock held. */
typedef void (*console_input)(void *arg, const void *buf, size_t len);

/* `log_path` NULL: no log. */
int console_new(const char *log_path, struct console **out, struct err *err);
void console_bind(struct console *c, struct loop *loop, console_input type, void *arg);
void console_free(struct console *c);

/* Its log begins anew, for another guest. The device lock is held. */
void console_restart(struct console *c);

/* The serial device's sink. */
void console_output(void *console, const void *buf, size_t len);

/*
 * Attach a connected socket or pipe pair. `in` -1: output only. `owned`: close them when the viewer
 * goes. Any thread, after console_bind() and with the loop running, or before it runs.
 */
void console_attach(struct console *c, int in, int out, bool owned);

/* The last line of a log that was written by console_output(), into `line`; "" if there is none. */
void console_last_line(const char *log_path, char *line, size_t max);

#endif
