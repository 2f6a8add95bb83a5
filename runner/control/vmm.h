/*
 * vmm.h - the life of a VM's process: bring a machine up (cold or from a snapshot), answer
 * control requests until it ends, clean up.
 *
 *     vmm_boot(...) or vmm_restore(...)      the guest runs
 *     vmm_run(v)                             until it is over
 *     vmm_free(v)
 *
 * THREADS. One thread calls these: the process's main thread. It is also the thread on which
 * control requests run and which talks to the guest's agent; the VM's own threads never wait for
 * it.
 */
#ifndef RUNNER_CONTROL_VMM_H
#define RUNNER_CONTROL_VMM_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "runner/control/console.h"
#include "runner/control/rundir.h"
#include "runner/proto/bootconf.h"
#include "runner/snapshot/clock_policy.h"
#include "runner/snapshot/prefault.h"
#include "runner/vm/vm.h"

struct vmm;
struct forward;

struct vmm_boot {
	const char *mount;     /* where the image and the snapshots are */
	const char *image_dir; /* NULL: no image */
	const char *image_ref; /* its name below images/, "" if elsewhere */
	const char *kernel;    /* bzImage or ELF; NULL: found in /boot */
	bool bare;	       /* an ELF test guest: no agent, devices but serial, power and disks */
	const char *cmdline;   /* appended to the kernel's command line, NULL: nothing */
	unsigned vcpus;
	uint64_t ram_bytes;
	const struct machine_disk *disk; /* as many as conf->ndisks, in that order */
	const struct forward *forward; /* `nforwards` ports of the host that lead into it */
	unsigned nforwards;
	struct bootconf *conf; /* the workload; root device, identity and clock are filled in */
};

struct vmm_restore {
	const char *mount;
	const char *snapshot_dir;
	enum clock_policy clock;
	enum prefault_policy prefault;
	const struct forward *forward; /* as of a boot */
	unsigned nforwards;
};

/*
 * `dir` is the VM's own (rundir_create()); it stays the caller's and outlives the VM. With
 * `foreground` the serial console is also this process's standard input and output.
 */
int vmm_boot(struct rundir *dir, const struct vmm_boot *b, bool foreground, struct vmm **out,
	     struct err *err);
/*
 * Returns once the guest has its new generation, or at once for a guest without agent. *timings
 * (may be NULL) is a new object of phase names and microseconds.
 */
int vmm_restore(struct rundir *dir, const struct vmm_restore *r, bool foreground, struct vmm **out,
		json_t **timings, struct err *err);

/*
 * Serve control requests until the VM is over. Returns how the guest ended as an exit code; a
 * failure fills *err.
 */
int vmm_run(struct vmm *v, struct err *err);
/* "powered off", "was stopped" ... */
const char *vmm_end_name(enum vm_end e);
void vmm_free(struct vmm *v);

#endif
