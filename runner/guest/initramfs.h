/*
 * initramfs.h - the guest's initramfs: smvm-init and the kernel modules it needs, plus the VM's own
 * /smvm.conf.
 *
 * Two cpio archives one after the other, which Linux unpacks in turn. The first depends only on
 * the kernel and the agent and is cached (cache_dir, named by a digest of both); the second holds
 * the boot configuration and is made anew for each boot. Uncompressed: it lives in memory for
 * milliseconds, and inflating it would be guest time.
 *
 * The cache is an optimisation: one that cannot be written, or that others can write, is logged and
 * done without. A cached file is written by rename, so that a reader sees it whole.
 */
#ifndef RUNNER_GUEST_INITRAMFS_H
#define RUNNER_GUEST_INITRAMFS_H

#include <stddef.h>

#include "runner/guest/kernel.h"
#include "runner/proto/bootconf.h"

#define INITRAMFS_CACHE_DIR "/var/cache/smvm"

struct initramfs_opts {
	const struct guest_kernel *kernel;
	const struct bootconf *conf;
	const char *agent_path; /* NULL: initramfs_find_agent() */
	const char *cache_dir;	/* NULL: $SMVM_CACHE_DIR or INITRAMFS_CACHE_DIR; "": no cache */
};

struct initramfs {
	void *data;
	size_t len;
};

int initramfs_build(const struct initramfs_opts *o, struct initramfs *out, struct err *err);
void initramfs_free(struct initramfs *i);

/*
 * smvm-init: $SMVM_INIT, else beside the running program, else ../lib/smvm/ from there. `out` has
 * PATH_MAX bytes. ENOENT says where it was looked for.
 */
int initramfs_find_agent(char *out, struct err *err);

#endif
