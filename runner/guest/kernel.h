/*
 * kernel.h - which Linux kernel a VM boots, and where its modules are.
 */
#ifndef RUNNER_GUEST_KERNEL_H
#define RUNNER_GUEST_KERNEL_H

#include <limits.h>

#include "smfs/base/err.h"

struct guest_kernel {
	char path[PATH_MAX];
	char version[65];	    /* uname -r, read from the image's own header */
	char modules_dir[PATH_MAX]; /* /lib/modules/<version>; may not exist */
};

/*
 * `path` names a bzImage. NULL: the newest /boot/vmlinuz-*-cloud-amd64, else the newest
 * /boot/vmlinuz-*. Newest is by version order, not by date. ENOENT with what to install; EBADMSG
 * when the file is no x86-64 bzImage.
 */
int guest_kernel_find(const char *path, struct guest_kernel *out, struct err *err);

/* As above in another directory than /boot, modules below `modules_root`: for tests. */
int guest_kernel_find_in(const char *boot_dir, const char *modules_root, const char *path,
			 struct guest_kernel *out, struct err *err);

#endif
