/*
 * machine.h - the one list of devices a machine has: boot and restore make the same machine from
 * the same configuration, in the same order.
 *
 * Order (and so GSIs and windows): serial0, pm, i8042, vmgenid, then virtio: pmem-rootfs,
 * the disks, rng0, vsock0. vmgenid and the virtio devices exist only where the configuration asks:
 * a tiny test guest has serial0, pm and disks alone.
 *
 * A struct machine_config borrows all it points to, for the length of machine_new().
 */
#ifndef RUNNER_VM_MACHINE_H
#define RUNNER_VM_MACHINE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "runner/devices/disk.h"
#include "runner/vm/vm.h"

#define MACHINE_MAX_DISKS 8
#define MACHINE_GUEST_CID 3

struct machine_disk {
	const char *id;	  /* "disk-data" */
	const char *path; /* of a private disk, too: where its content once came from, for people */
	bool readonly;
	struct disk_view *base; /* a private disk with this content; NULL: `path` itself */
};

struct machine_config {
	unsigned vcpus;
	uint64_t ram_bytes;
	/* Restore: the open `ram` and its path; the vCPUs get no CPUID table, it comes with their
	 * saved state. Cold boot: -1, NULL. */
	int ram_fd;
	const char *ram_path;
	const uint64_t *ram_used; /* of vm_config; NULL: not known */
	/* A fork: the memory of the machine this process is a copy of (vm_config); else NULL. */
	struct memory *inherited;

	/*
	 * A Linux guest: vmgenid, i8042, rng0 and what follows. false: serial0, pm and the disks
	 * only, and the rest must be unset.
	 */
	bool linux_guest;
	const char *rootfs; /* rootfs.erofs in the mount, becomes pmem-rootfs; NULL: none */
	struct machine_disk disk[MACHINE_MAX_DISKS];
	unsigned ndisks;
	const char *vsock_path; /* unix socket to listen on, becomes vsock0; NULL: none */

	/* Where serial output goes (devices/serial.h). */
	void (*serial_sink)(void *arg, const uint8_t *p, size_t n);
	void *serial_arg;
};

/* What a snapshot must know of a machine and cannot ask its devices. */
#define MACHINE_PATH_MAX 1024
struct machine_disk_kept {
	char id[32];
	char path[MACHINE_PATH_MAX];
	bool readonly;
	uint64_t bytes;
};

struct machine {
	struct vm *vm;
	struct device *serial;
	struct device *vmgenid; /* NULL without */
	/* The snapshot's `ram` behind the RAM, -1 when it is anonymous; owned. */
	int ram_fd;
	/* Where that file's data in each RAM region ends at the latest, from the region's start. */
	uint64_t ram_used[MEMORY_MAX_REGIONS];
	/* Pages of the process's own need not be ones the guest has written (prefault.h). */
	bool ram_copied;
	struct machine_disk_kept disk[MACHINE_MAX_DISKS];
	unsigned ndisks;
	/* The file behind pmem-rootfs, if there is one. */
	dev_t rootfs_dev;
	ino_t rootfs_ino;
};

/* The VM with all its devices, nothing loaded, nothing running. */
int machine_new(const struct machine_config *cfg, struct machine *out, struct err *err);
/* The writable disks as they are at one instant, in the order of machine.disk; NULL: read-only. */
struct machine_disks {
	struct disk_view *view[MACHINE_MAX_DISKS];
};
#define MACHINE_DISKS_FDS (MACHINE_MAX_DISKS * DISK_VIEW_FDS)
/* The machine is paused. On failure *out has none. */
int machine_freeze_disks(const struct machine *m, struct machine_disks *out, struct err *err);
void machine_disks_put(struct machine_disks *d);
/* Their descriptors, at most MACHINE_DISKS_FDS: how many. */
unsigned machine_disks_fds(const struct machine_disks *d, int *fds);

/* Ends the VM too. A machine all zero, or freed, is fine. */
void machine_free(struct machine *m);

#endif
