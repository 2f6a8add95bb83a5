/* restore_priv.h - an open snapshot, shared by restore.c and reset.c. */
#ifndef RUNNER_SNAPSHOT_RESTORE_PRIV_H
#define RUNNER_SNAPSHOT_RESTORE_PRIV_H

#include "runner/snapshot/restore.h"
#include "runner/snapshot/sections.h"
#include "runner/x86/state.h"

struct snapshot {
	char *dir, *mount;
	char *rootfs; /* absolute, NULL if none */
	char *ram_path;
	int ram_fd, ws_fd;
	bool ram_copied;	  /* of a fork: struct machine's */
	char *vcpu;		  /* the file's bytes, which `sections` points into */
	struct memory *inherited; /* of the machine this process is a copy of, or NULL */
	struct snapshot_meta meta;
	struct sections sections;
	struct vcpu_state *state; /* meta.vcpus of them */
	struct vm_irq_state irq;
	/* What the device list amounts to. */
	bool linux_guest, has_vsock;
	struct machine_disk disk[MACHINE_MAX_DISKS];
	unsigned ndisks;
	uint8_t uuid[16];
};

/* The machine that was made is the machine that was saved, device by device. ENOTSUP. */
int snapshot_check_machine(const struct snapshot_meta *m, const struct vm *vm, struct err *err);
/* All state but RAM, and the new identity. Whatever the machine did before, it does not run. */
int snapshot_load(struct snapshot *s, enum clock_policy clock, struct machine *m,
		  struct restore_timing *t, struct err *err);

#endif
