/*
 * journal.h - what the entrypoint prints: on the console as it comes, and the last of it in memory,
 * where a readiness condition looks for a line.
 *
 * The entrypoint's output is a terminal, as the console itself would be, so that programs write
 * line by line. A process of its own passes it on: a slow console holds up the entrypoint alone.
 * The memory is shared with every child forked after journal_start(); there is one writer, and a
 * reader sees at once when it was overtaken.
 */
#ifndef RUNNER_AGENT_JOURNAL_H
#define RUNNER_AGENT_JOURNAL_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "smfs/base/err.h"

#define JOURNAL_SIZE (256u << 10)

struct journal;

/*
 * Make one, and start the process that copies to `console` (-1: nowhere), too. *tty, close-on-exec,
 * is the entrypoint's output; the caller closes it once that has it. The process ends with its last
 * user. On failure *out is as it was: a journal that nobody writes would be waited for.
 */
int journal_start(struct journal **out, int console, int *tty, pid_t *pid, struct err *err);
/*
 * Copy from the byte numbered *pos, counted from the first there was, up to `cap` bytes; *pos is
 * moved to the oldest that is left if that one is gone. Returns the count, and does not move *pos
 * beyond it.
 */
size_t journal_read(const struct journal *j, uint64_t *pos, char *buf, size_t cap);

#endif
