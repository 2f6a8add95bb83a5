/*
 * restore.h - from a snapshot's directory to a machine ready to run.
 *
 *     snapshot_open(dir, mount, &s, err);        // read, check, refuse: no VM exists yet
 *     snapshot_restore(s, &opts, &machine, &t, err);
 *     vm_start(machine.vm, err);
 *     snapshot_close(s);
 *
 * `ram` is mapped MAP_PRIVATE and never read here, so the cost does not depend on its size.
 * Everything that can be wrong with a snapshot, or with this host for it, is said by
 * snapshot_open(): EBADMSG damaged, ENOTSUP another CPU, format or machine, ENOENT the image is not
 * in the mount.
 */
#ifndef RUNNER_SNAPSHOT_RESTORE_H
#define RUNNER_SNAPSHOT_RESTORE_H

#include <stdint.h>

#include "runner/snapshot/clock_policy.h"
#include "runner/snapshot/meta.h"
#include "runner/vm/machine.h"
#include "smfs/base/bytes.h"

struct snapshot;

/* `dir` holds meta, ram, vcpu (in a mount or not); images are looked for below `mount`. */
int snapshot_open(const char *dir, const char *mount, struct snapshot **out, struct err *err);
/*
 * In a forked copy of the process of `m`, paused and captured before the fork (capture.h): the same
 * thing, without a file. `vcpu`'s bytes and `disks` (frozen then) are taken over, `rootfs` ("" for
 * none) is opened anew. m is used for its RAM and is of no use afterwards.
 */
int snapshot_of_copy(struct machine *m, const struct snapshot_meta *meta, struct writer *vcpu,
		     struct machine_disks *disks, const char *rootfs, struct snapshot **out,
		     struct err *err);
const struct snapshot_meta *snapshot_meta(const struct snapshot *s);
/* The generation the restored machine will have, and its fresh uuid (chosen by snapshot_open()). */
uint64_t snapshot_next_generation(const struct snapshot *s);
const uint8_t *snapshot_next_uuid(const struct snapshot *s); /* 16 bytes */
/* The snapshot's `ws`, opened and not looked at; the caller's now. -1: it has none. */
int snapshot_take_ws(struct snapshot *s);
void snapshot_close(struct snapshot *s);

struct restore_opts {
	const char *vsock_path; /* where the restored vsock0 listens; unused without one */
	void (*serial_sink)(void *arg, const uint8_t *p, size_t n);
	void *serial_arg;
	enum clock_policy clock; /* decides the time in the mailbox */
};

struct restore_timing {	     /* microseconds */
	uint64_t machine_us; /* the KVM VM, RAM mapped, devices made */
	uint64_t map_us;     /* of it: RAM and the image mapped, their slots set */
	uint64_t vcpu_us, devices_us, identity_us;
	uint64_t irq_us;   /* of vcpu_us: interrupt controllers and timer chip */
	uint64_t clock_us; /* of identity_us: the guest's clock told of the gap; of a reset, the TSC
			    */
	/* Of a reset alone: connections dropped, and what listens open again. */
	uint64_t drop_us, listen_us;
	/* Not a time: of vm_remap_ram(). */
	uint64_t rewound_bytes;
};

/* The machine with all state loaded and its new identity written (VMGenID, mailbox), not running.
 */
int snapshot_restore(struct snapshot *s, const struct restore_opts *o, struct machine *out,
		     struct restore_timing *t, struct err *err);

/*
 * IN PLACE. A machine that runs becomes the snapshot's: same process, same KVM VM, same memory
 * slots; RAM is mapped anew over the old, and everything else is loaded as into a new one. It must
 * have the same shape: vCPUs, RAM, devices, the same image under pmem-rootfs, disks of the same
 * sizes. ENOTSUP says what differs, and nothing has been touched.
 */
int snapshot_fits_machine(const struct snapshot *s, const struct machine *m, struct err *err);
/*
 * It fits, and `m` is paused (vm_pause()); vm_resume() is what is left to do. Nothing of the old
 * machine is left: no connection, no client that waited for one, no page, no disk block, no
 * interrupt. `o` is for its clock policy. After a failure `m` is good for machine_free() only; the
 * snapshot can still be restored into a new one.
 */
int snapshot_reset(struct snapshot *s, const struct restore_opts *o, struct machine *m,
		   struct restore_timing *t, struct err *err);

#endif
