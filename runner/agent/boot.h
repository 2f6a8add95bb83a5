/*
 * boot.h - from the kernel's hand-over to the image as root: mounts, modules, root file system.
 *
 * Process 1 calls these in the order of main.c. The steps that a guest cannot do without return an
 * error, and process 1 then powers off with the reason on the console; the others log.
 */
#ifndef RUNNER_AGENT_BOOT_H
#define RUNNER_AGENT_BOOT_H

#include "runner/agent/guest.h"

/* /proc /sys /dev /dev/pts /dev/shm /run and cgroup2; standard streams on /dev/console. */
int boot_early(struct err *err);

/* /smvm.conf into `c`; without the file an empty configuration. */
int boot_read_conf(struct bootconf *c, struct err *err);

/*
 * Wait for the root device, mount it read-only (with DAX where asked for and possible), a writable
 * tmpfs overlay above it, and make that the root. `desc` (128 bytes) says what was mounted.
 */
int boot_root(const struct bootconf *c, char *desc, struct err *err);

/* Extra disks; a disk that does not mount is an error naming it. */
int boot_disks(const struct bootconf *c, struct err *err);

/* Loopback up, hostname, hosts, resolv.conf, machine-id, clock, limits. Failures are logged. */
void boot_settle(struct guest *g);

/* Map the mailbox page, NULL (and a line in the log) when /dev/mem does not allow it. */
const uint8_t *boot_map_mailbox(uint64_t gpa);

/*
 * The workload's cgroup folder and the one in it for its programs, see guest.h; NULL (and a line in
 * the log) where the kernel has no cgroup2 freezer, or no memory controller.
 */
const char *boot_cgroup(const char **work);

#endif
