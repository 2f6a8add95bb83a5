/*
 * ws_save.h - the working set of a running machine, on demand: the snapshot it was restored from,
 * stored under another name with what the machine has touched since as its `ws`.
 *
 * `ram` and `vcpu` are the old snapshot's and take no space; `meta` is, but for saying so. The
 * machine is not paused: its page tables are read while it runs. One that is reset to the same
 * snapshot again keeps what it has read mapped (rewind.c), and so has touched what it did in any of
 * those lives. A snapshot never changes, hence the second name; the first may be removed.
 */
#ifndef RUNNER_SNAPSHOT_WS_SAVE_H
#define RUNNER_SNAPSHOT_WS_SAVE_H

#include <stdint.h>

#include "runner/vm/machine.h"
#include "smfs/base/err.h"

struct ws_save_stats {
	uint64_t read_pages, written_pages;
	uint32_t ranges;
	uint64_t us;
};

/*
 * `store` is the directory of the store that is mounted on `mount`; `from` the name of the
 * snapshot. ENOTSUP: it is no restored machine. ESTALE: `from` is not what it was restored from.
 */
int ws_save(const struct machine *m, const char *store, const char *mount, const char *from,
	    const char *name, struct ws_save_stats *out, struct err *err);

#endif
