/*
 * bootconf.h - what the runner tells smvm-init at boot: /smvm.conf in the initramfs.
 *
 * A per-boot file beside the cached, per-kernel part of the initramfs: magic, version, then items
 * (tag u16, length u32, value), little endian, unknown tags skipped (doc/agent-protocol.md).
 *
 * bootconf_encode() leaves pointers the caller's. bootconf_decode() owns everything it fills,
 * released by bootconf_free().
 */
#ifndef RUNNER_PROTO_BOOTCONF_H
#define RUNNER_PROTO_BOOTCONF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runner/proto/agent.h"

#define BOOTCONF_PATH	   "/smvm.conf"
#define BOOTCONF_MAX	   (1u << 20)
#define BOOTCONF_DISKS_MAX 16u

struct bootconf_disk {
	char *device; /* "/dev/vda" */
	char *path;   /* where it is mounted, absolute */
	char *fstype; /* "ext4" */
	bool readonly;
};

struct bootconf {
	/* The root file system: NULL device = none, the initramfs stays the root (no workload). */
	char *root_device; /* "/dev/pmem0" */
	char *root_fstype; /* "erofs" */
	bool root_dax;

	/* The workload: argv NULL or empty = none, serve exec only. */
	char **argv;
	char **env;
	char *cwd;
	char *user;

	char *hostname;	   /* NULL: "smvm" */
	char *machine_id;  /* 32 digits, NULL: leave the image's */
	char *resolv_conf; /* content for /etc/resolv.conf where the image has none, NULL: leave */
	bool poweroff_on_exit; /* power off when the workload's entrypoint ends */

	uint64_t generation; /* number and uuid the VM boots with */
	uint8_t uuid[AGENT_UUID_LEN];
	uint64_t mailbox_gpa; /* reserved RAM page, 0: none */
	uint64_t wall_ns;     /* host's CLOCK_REALTIME, 0: trust the RTC */

	struct bootconf_disk disk[BOOTCONF_DISKS_MAX];
	unsigned ndisks;
};

void bootconf_encode(struct writer *w, const struct bootconf *c);
int bootconf_decode(const void *data, size_t len, struct bootconf *c, struct err *err);
void bootconf_free(struct bootconf *c);

#endif
