/*
 * rundir.h - the directory of running machines: /run/smvm/<id>/, one per VM process.
 *
 *   lock          held (flock) by the VM's process as long as it lives: the one proof of life
 *   vm.json       what it is (written atomically; struct vm_info)
 *   control.sock  requests to the VM's process (control/server.h)
 *   vsock.sock    host side of the guest's vsock (CONNECT <port>)
 *   console.log   everything the guest wrote to its serial console
 *   vmm.log       the VM process's own log lines
 *
 * A directory whose lock is free belongs to a process that is gone; listing removes it. A VM is
 * addressed by name, id or unambiguous prefix of the id. The base is $SMVM_RUN_DIR or /run/smvm,
 * mode 0700.
 */
#ifndef RUNNER_CONTROL_RUNDIR_H
#define RUNNER_CONTROL_RUNDIR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "smfs/base/err.h"

#define VM_ID_LEN	12 /* lower-case hex digits */
#define VM_NAME_MAX	63
#define VM_FORWARDS_MAX 3200

struct vm_info {
	char id[VM_ID_LEN + 1];
	char name[VM_NAME_MAX + 1];
	pid_t pid;
	int64_t created_ns;
	unsigned vcpus;
	uint64_t ram_bytes;
	char image[512];	      /* "" for none */
	char snapshot[512];	      /* restored from, "" for a cold boot */
	char parent[VM_NAME_MAX + 1]; /* the VM it is a fork of, "" if none */
	uint64_t generation;
	/* What leads into it, as forwarder_text() has it, "" if nothing does. */
	char forwards[VM_FORWARDS_MAX];
	/* The latest snapshot of it that is being written or has failed, "" if none. */
	char saving[132];
	bool save_failed;
};

struct rundir {
	char path[92]; /* leaves room for "/vsock.sock_<port>" in a sun_path */
	int lock_fd;   /* held by the owner, else -1 */
	struct vm_info info;
};

/* The base directory; and the same, made if it is not there and found to be nobody else's. */
const char *rundir_base(void);
int rundir_make_base(struct err *err);

/* VM names: [A-Za-z0-9][A-Za-z0-9._-]{0,62}. */
int rundir_name_check(const char *name, struct err *err);

/*
 * Make a directory for a new VM and take its lock. `name` NULL: the id is the name. The lock
 * belongs to the open descriptor and so survives fork(2) in the child. EEXIST when a running VM
 * has that name. Only one with a name is listed before rundir_publish().
 */
int rundir_create(const char *name, struct rundir **out, struct err *err);
/* Write vm.json from d->info: when the VM is up, and whenever info changes. */
int rundir_publish(struct rundir *d, struct err *err);
/* Remove the directory and its known files, drop the lock, free. */
void rundir_remove(struct rundir *d);
/* Only the directory and its files: of a process that ends while others of its threads use *d. */
void rundir_erase(const struct rundir *d);
/* Free the struct and close its lock descriptor, leave the directory to its owner. */
void rundir_release(struct rundir *d);

/* A running VM by name, id or id prefix (2 digits or more). ENOENT, or EINVAL when ambiguous. */
int rundir_find(const char *what, struct rundir **out, struct err *err);

/* All running VMs, oldest first; release each, then free the array. */
int rundir_list(struct rundir ***out, size_t *n, struct err *err);

/* "<dir>/<file>" into buf; returns buf. */
#define RUNDIR_PATH_MAX 108
char *rundir_file(const struct rundir *d, const char *file, char buf[RUNDIR_PATH_MAX]);

#endif
