/*
 * signals.h - signals as something to poll for.
 */
#ifndef SMFS_BASE_SIGNALS_H
#define SMFS_BASE_SIGNALS_H

#include <signal.h>

#include "smfs/base/err.h"

/*
 * Block the signals of `list`, which a 0 ends, in the calling thread (and those it starts later),
 * and return a signalfd(2) that reads them, close-on-exec; `flags` may add SFD_NONBLOCK. `old`:
 * what was blocked before; may be NULL.
 */
int signals_open(const int *list, int flags, sigset_t *old, struct err *err);

#endif
