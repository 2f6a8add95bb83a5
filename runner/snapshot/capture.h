/*
 * capture.h - the state of a paused machine, all but its RAM: into memory, without touching a file.
 */
#ifndef RUNNER_SNAPSHOT_CAPTURE_H
#define RUNNER_SNAPSHOT_CAPTURE_H

#include "runner/snapshot/meta.h"
#include "runner/vm/machine.h"
#include "smfs/base/bytes.h"

/* Before the pause: can it be captured at all? ENOTSUP if not. */
int capture_check(const struct machine *m, struct err *err);

/*
 * The machine is paused (vm_pause()) and none of its locks is held. Fills `w` with what becomes
 * `vcpu`, and of *meta all that describes it: CPU, vCPUs, memory, devices, wall clock;
 * meta->cpu.microcode stays as it is.
 */
int capture_machine(const struct machine *m, struct snapshot_meta *meta, struct writer *w,
		    struct err *err);

#endif
