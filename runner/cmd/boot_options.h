/*
 * boot_options.h - the options `boot`, `run` and `worker` share, and what they make of them.
 */
#ifndef RUNNER_CMD_BOOT_OPTIONS_H
#define RUNNER_CMD_BOOT_OPTIONS_H

#include <limits.h>

#include "runner/control/forward.h"
#include "runner/control/vmm.h"
#include "runner/proto/agent_reach.h"
#include "runner/vm/machine.h"

#define BOOT_ENV_MAX 256

struct boot_options {
	const char *name, *mount, *kernel, *cmdline, *entrypoint, *user, *workdir;
	char *env[BOOT_ENV_MAX + 1];
	size_t nenv;
	uint64_t vcpus, ram_bytes;
	struct boot_disk {
		char *file, *path; /* host file, absolute; where the guest mounts it */
		char id[16];
		bool readonly;
	} disk[MACHINE_MAX_DISKS];
	unsigned ndisks;
	struct forward forward[FORWARD_MAX];
	unsigned nforwards;

	/* Filled by boot_options_resolve(). */
	char image_dir[PATH_MAX], image_ref[512];
	struct machine_disk machine_disk[MACHINE_MAX_DISKS];
	struct bootconf conf;
	struct vmm_boot boot;
};

#define BOOT_OPTIONS_HELP                                                                          \
	"      --name NAME       how to call the VM (default: its id)\n"                           \
	"  -c, --cpus N          virtual CPUs (1)\n"                                               \
	"  -m, --memory SIZE     RAM (512M)\n"                                                     \
	"  -e, --env NAME=VALUE  set a variable of the workload (repeatable)\n"                    \
	"  -u, --user USER       run it as uid[:gid] or name[:group]\n"                            \
	"  -w, --workdir DIR     run it in DIR\n"                                                  \
	"  -p, --publish [[ADDRESS:]PORT:]TARGET\n"                                                \
	"                        PORT of this host (0 or none: any) leads to TARGET, a port or\n"  \
	"                        Unix socket of the guest (repeatable)\n"                          \
	"      --disk FILE:PATH[:ro]\n"                                                            \
	"                        mount FILE, an ext4 image, at PATH (repeatable)\n"                \
	"      --entrypoint PROG run PROG instead of the image's entrypoint\n"                     \
	"      --kernel FILE     bzImage (newest /boot/vmlinuz-*-cloud-amd64) or ELF test guest\n" \
	"      --append TEXT     add to the kernel's command line\n"                               \
	"      --mount DIR       where the store is mounted ($SMFS_MOUNT, /mnt/smfs)\n"

/* Long options and short ones ("c:m:e:u:w:p:h") of all three; values for the long-only ones. */
enum {
	OPT_NAME = 256,
	OPT_ENTRYPOINT,
	OPT_KERNEL,
	OPT_APPEND,
	OPT_MOUNT,
	OPT_DISK,
	OPT_READY,
	OPT_READY_TIMEOUT,
	OPT_OWN
};
#define BOOT_OPTIONS_SHORT "c:m:e:u:w:p:h"
#define BOOT_OPTIONS_LONG                                                                          \
	{"name", required_argument, NULL, OPT_NAME}, {"cpus", required_argument, NULL, 'c'},       \
		{"memory", required_argument, NULL, 'm'}, {"env", required_argument, NULL, 'e'},   \
		{"user", required_argument, NULL, 'u'}, {"workdir", required_argument, NULL, 'w'}, \
		{"publish", required_argument, NULL, 'p'},                                         \
		{"disk", required_argument, NULL, OPT_DISK},                                       \
		{"entrypoint", required_argument, NULL, OPT_ENTRYPOINT},                           \
		{"kernel", required_argument, NULL, OPT_KERNEL},                                   \
		{"append", required_argument, NULL, OPT_APPEND},                                   \
		{"mount", required_argument, NULL, OPT_MOUNT},                                     \
	{                                                                                          \
		"help", no_argument, NULL, 'h'                                                     \
	}

void boot_options_init(struct boot_options *o);
/* Take one option as getopt_long() gave it. EINVAL with the reason. */
int boot_options_take(struct boot_options *o, int opt, const char *arg, struct err *err);
/*
 * Find the image (`image` NULL: none, then --kernel is needed) and work out the workload from
 * its config and `args` (NULL-terminated, NULL: the image's own).
 */
int boot_options_resolve(struct boot_options *o, const char *image, char **args, struct err *err);
void boot_options_free(struct boot_options *o);

/* What `boot` and `worker` wait for. */
struct ready_options {
	char *condition[AGENT_CONDITIONS_MAX + 1]; /* NULL-terminated */
	unsigned n;
	uint64_t timeout_s;
};
#define READY_OPTIONS_LONG                                                  \
	{"ready", required_argument, NULL, OPT_READY},                      \
	{                                                                   \
		"ready-timeout", required_argument, NULL, OPT_READY_TIMEOUT \
	}
/* OPT_READY or OPT_READY_TIMEOUT; `arg` is kept. EINVAL with the reason. */
int ready_options_take(struct ready_options *o, int opt, char *arg, struct err *err);

#endif
