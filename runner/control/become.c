#include "runner/control/become.h"

#include "runner/control/vmm_internal.h"

#include "smfs/base/clock.h"
#include "smfs/base/log.h"

#include <string.h>

const char *become_name(enum become_how how)
{
	static const char *const names[] = {
		[BECOME_NEW] = "new", [BECOME_WARM] = "warm", [BECOME_REBUILT] = "rebuilt"};

	return names[how];
}

/* The guest stands still, whoever has paused it. */
static int stop_guest(struct vmm *v, struct err *err)
{
	/* A writer that was to be waited for has its own copy. */
	saves_let_go(&v->save);
	return v->machine.vm->paused ? 0 : vm_pause(v->machine.vm, err);
}

/* Up to where the guest runs again. After a failure the machine is lost. */
static int in_place(struct vmm *v, struct snapshot *s, const struct vmm_restore *r,
		    struct vmm_moments *at, struct restore_timing *t, struct err *err)
{
	char vsock[RUNDIR_PATH_MAX];
	struct restore_opts o = vmm_restore_opts(v, r->clock, vsock);
	const uint64_t start = monotonic_us();
	int ret;

	prefault_stop(v->prefault);
	v->prefault = NULL;
	json_decref(v->restored);
	v->restored = NULL;
	ret = stop_guest(v, err);
	at->stopped_us = monotonic_us() - start;
	if (ret < 0 || (ret = snapshot_reset(s, &o, &v->machine, t, err)) < 0)
		return ret;
	pthread_mutex_lock(&v->machine.vm->dev_lock);
	console_restart(v->console);
	pthread_mutex_unlock(&v->machine.vm->dev_lock);
	v->mount = r->mount;
	v->generation = snapshot_next_generation(s);
	memcpy(v->uuid, snapshot_next_uuid(s), sizeof(v->uuid));
	v->rootfs[0] = '\0';
	ret = prefault_new(&v->machine, r->prefault, snapshot_take_ws(s), &v->prefault, err);
	return ret < 0 ? ret : vm_resume(v->machine.vm, err);
}

/* Why it cannot be done in place; 0: it can. */
static int fits(const struct vmm *v, const struct snapshot *s, struct err *err)
{
	const int end = atomic_load(&v->machine.vm->end);

	if (end != VM_RUNNING)
		return err_set(err, ENOTSUP, "the machine %s", vmm_end_name(end));
	return snapshot_fits_machine(s, &v->machine, err);
}

int vmm_become(struct vmm **v, struct rundir *dir, const struct vmm_restore *r, struct became *how,
	       json_t **timings, struct err *err)
{
	struct vmm_moments at = {.began = monotonic_us()};
	struct restore_timing t;
	struct snapshot *s;
	int ret = snapshot_open(r->snapshot_dir, r->mount, &s, err);

	*how = (struct became){.how = *v ? BECOME_WARM : BECOME_NEW};
	*timings = NULL;
	if (ret < 0)
		return ret;
	at.opened = monotonic_us();
	if (*v && fits(*v, s, &how->why) < 0)
		how->how = BECOME_REBUILT;
	if (*v && how->how == BECOME_REBUILT && (*v)->save.active) {
		snapshot_close(s);
		return err_set(err, EBUSY,
			       "a snapshot of this machine is being written, and a "
			       "new one is needed: %s",
			       how->why.msg);
	}
	snprintf(dir->info.snapshot, sizeof(dir->info.snapshot), "%.500s", r->snapshot_dir);
	if (*v && how->how == BECOME_WARM) {
		ret = in_place(*v, s, r, &at, &t, &how->why);
		if (ret == 0) {
			ret = vmm_settle(*v, s, &t, r->clock, &at, timings, err);
			snapshot_close(s);
			if (ret == 0)
				return 0;
			/* It ran, so that another VM would fare no better. */
			vmm_free(*v);
			*v = NULL;
			return ret;
		}
		log_warn("%s; a new machine is made", how->why.msg);
		how->how = BECOME_REBUILT;
	}
	vmm_free(*v);
	*v = NULL;
	return vmm_from_snapshot(dir, s, r->mount, r->clock, r->prefault, false, &at, v, timings,
				 err);
}
