/*
 * modules.h - which kernel modules a guest needs, in load order, and their bytes.
 *
 * Works on a /lib/modules/<version> folder as depmod left it: modules.dep, modules.builtin,
 * modules.softdep. The folder belongs to the host, yet its files are read with bounds.
 */
#ifndef RUNNER_GUEST_MODULES_H
#define RUNNER_GUEST_MODULES_H

#include <stddef.h>

#include "smfs/base/err.h"

#define GUEST_MODULES_MAX 128
#define GUEST_MODULE_MAX  (64u << 20) /* bytes, decompressed */

struct module_list {
	char *path[GUEST_MODULES_MAX]; /* relative to the folder: "kernel/fs/erofs/erofs.ko.xz" */
	unsigned n;
};

/*
 * What a guest of ours needs, and everything those depend on, dependencies first. Built-in ones
 * are left out. ENOENT names a module the kernel has neither way and the guest cannot do without;
 * the merely useful ones are skipped.
 */
int guest_modules_list(const char *modules_dir, struct module_list *out, struct err *err);
void guest_modules_free(struct module_list *l);

/* A module's bytes, decompressed by its name (.ko, .ko.xz, .ko.gz, .ko.zst); caller frees. */
int guest_module_read(const char *modules_dir, const char *path, void **data, size_t *len,
		      struct err *err);

#endif
