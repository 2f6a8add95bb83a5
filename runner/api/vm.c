/* vm.c - smvm_vm_*: handles, and their ends. */
#include "runner/api/handle.h"
#include "runner/control/control.h"
#include "runner/control/publish.h"
#include "smfs/base/clock.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define STOP_GRACE_MS 10000
#define QUIT_MS	      65000 /* the worker's own limit, and some */

struct smvm_vm *vm_handle(void)
{
	struct smvm_vm *vm = calloc(1, sizeof(*vm));

	if (vm) {
		vm->fd = -1;
		child_init(&vm->child);
	}
	return vm;
}

int smvm_vm_attach(int fd, int timeout_ms, struct smvm_vm **out, struct smvm_error *err)
{
	struct err e = ERR_INIT;
	struct smvm_vm *vm = vm_handle();

	if (!vm) {
		close(fd);
		return api_error(err, &e, err_set(&e, ENOMEM, "attach: out of memory"));
	}
	vm->is_worker = true;
	vm->fd = fd;
	int r = link_greet(vm, timeout_ms, &e);
	if (r < 0)
		smvm_vm_free(vm);
	else
		*out = vm;
	return api_error(err, &e, r);
}

int vm_open_by(const char *name, struct smvm_vm **out, struct err *err)
{
	struct rundir *d;
	int r = rundir_find(name, &d, err);

	if (r < 0)
		return r;
	struct smvm_vm *vm = vm_handle();
	if (vm) {
		memcpy(vm->id, d->info.id, sizeof(vm->id));
		snprintf(vm->dir, sizeof(vm->dir), "%s", d->path);
		snprintf(vm->forwards, sizeof(vm->forwards), "%s", d->info.forwards);
	}
	rundir_release(d);
	if (!vm)
		return err_set(err, ENOMEM, "open VM %s: out of memory", name);
	*out = vm;
	return 0;
}

int smvm_vm_open(const char *name, struct smvm_vm **out, struct smvm_error *err)
{
	struct err e = ERR_INIT;

	return api_error(err, &e, vm_open_by(name, out, &e));
}

const char *smvm_vm_id(const struct smvm_vm *vm)
{
	return vm->id;
}

const char *smvm_vm_directory(const struct smvm_vm *vm)
{
	return vm->dir;
}

unsigned smvm_vm_host_port(const struct smvm_vm *vm, unsigned index)
{
	return publish_port(vm->forwards, index);
}

int vm_file(struct smvm_vm *vm, const char *file, char out[RUNDIR_PATH_MAX], struct err *err)
{
	int r = vm->is_claim ? claim_check(vm, err) : 0;

	if (r < 0)
		return r;
	if (vm->is_worker && vm->fd < 0)
		return link_closed(err);
	if (!vm->dir[0])
		return err_set(err, ENOTSUP,
			       "the worker speaks the original protocol: its directory is not "
			       "known");
	if ((size_t)snprintf(out, RUNDIR_PATH_MAX, "%s/%s", vm->dir, file) >= RUNDIR_PATH_MAX)
		return err_set(err, ENAMETOOLONG, "%s/%s", vm->dir, file);
	return 0;
}

/* ---- the end ---- */

/* BYE, or in the original protocol the end of the connection. */
static int quit(struct smvm_vm *vm, struct err *err)
{
	static const bool never;
	int r = link_say(vm, "QUIT", err);

	if (r < 0)
		return r;
	const uint64_t until = monotonic_us() + QUIT_MS * 1000ull;
	r = link_await(vm, vm->extended ? &vm->bye : &never, until, err);
	link_close(vm);
	/* Without BYE it has ended otherwise than was asked. */
	return r == -EPIPE && !vm->extended ? 0 : r;
}

static int stop_other(struct smvm_vm *vm, struct err *err)
{
	char path[RUNDIR_PATH_MAX];
	struct rundir *d;
	int r = vm->is_claim ? claim_check(vm, err) : 0;

	if (r < 0 || (r = rundir_find(vm->id, &d, err)) < 0)
		return r;
	r = control_stop(rundir_file(d, "control.sock", path), d->info.pid, false, STOP_GRACE_MS,
			 err);
	rundir_release(d);
	return r;
}

int smvm_vm_stop(struct smvm_vm *vm, struct smvm_error *err)
{
	struct err e = ERR_INIT;

	return api_error(err, &e, vm->is_worker ? quit(vm, &e) : stop_other(vm, &e));
}

void smvm_vm_drop(struct smvm_vm *vm)
{
	link_close(vm);
}

int smvm_vm_join(struct smvm_vm *vm, int timeout_ms, int *status, struct smvm_error *err)
{
	struct err e = ERR_INIT;

	return api_error(err, &e, child_join(&vm->child, timeout_ms, status, &e));
}

void smvm_vm_free(struct smvm_vm *vm)
{
	if (!vm)
		return;
	link_close(vm);
	/* It ends because of that, within the time it gives to what it is writing. */
	child_end(&vm->child, QUIT_MS);
	free(vm);
}
