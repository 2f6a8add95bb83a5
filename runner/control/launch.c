#include "runner/control/launch.h"

#include "runner/control/console.h"
#include "runner/control/identity.h"
#include "runner/control/publish.h"
#include "runner/control/spawn.h"
#include "runner/control/vmm_internal.h"
#include "runner/guest/agent_client.h"

#include "smfs/base/cleanup.h"
#include "smfs/base/log.h"
#include "smfs/base/num.h"

#include <stdio.h>
#include <string.h>

#define BOOT_WAIT_MS 180000 /* a nested, emulated machine is slow */

int launch_await_agent(struct vmm *v, int timeout_ms, int stop_fd, struct agent **out,
		       struct err *err)
{
	struct agent *a;
	int r = vmm_agent_unless(v, timeout_ms, stop_fd, &a, err);

	if (r == 0) {
		/*
		 * Until Linux switches to kvm-clock it counts timer ticks, and on a busy host some
		 * are lost: a guest boots with its clock behind by that much.
		 */
		if (agent_clock(a, AGENT_TIMEOUT_MS, err) < 0)
			log_warn("set the guest's clock: %s", err->msg);
		err_clear(err);
		if (out)
			*out = a;
		else
			agent_close(a);
		return 0;
	}
	if (r == -ECANCELED)
		return r;
	if (atomic_load(&v->machine.vm->end) != VM_RUNNING)
		return err_wrap(err, r, "boot");
	char path[RUNDIR_PATH_MAX], last[256];
	console_last_line(rundir_file(v->dir, "console.log", path), last, sizeof(last));
	return err_set(err, -r, "boot: the guest did not come up; last console line: %s",
		       last[0] ? last : "(none)");
}

/* What the launcher's copy of the directory's facts lacks. */
static json_t *with_forwards(const struct rundir *d, json_t *details)
{
	if (!d->info.forwards[0])
		return details;
	if (!details)
		details = json_object();
	json_object_set_new(details, "forwards", json_string(d->info.forwards));
	return details;
}

static void take_forwards(struct rundir *d, json_t *details)
{
	const char *text = json_string_value(json_object_get(details, "forwards"));

	snprintf(d->info.forwards, sizeof(d->info.forwards), "%s", text ? text : "");
	json_object_del(details, "forwards");
}

static int boot_body(struct spawn_child *c, struct rundir *d, void *arg, struct err *err)
{
	const struct vmm_boot *b = arg;
	struct vmm *v;

	if (publish_ports(d, b->forward, b->nforwards, err) < 0 ||
	    vmm_boot(d, b, false, &v, err) < 0)
		return EXIT_FAILED;
	int code = EXIT_FAILED;
	if (!v->has_agent ||
	    launch_await_agent(v, BOOT_WAIT_MS, v->machine.vm->end_fd, NULL, err) == 0) {
		spawn_ready(c, with_forwards(d, NULL));
		code = vmm_run(v, err);
	}
	if (code != EXIT_OK)
		log_err("%s", err->msg);
	vmm_free(v);
	return code;
}

static int restore_body(struct spawn_child *c, struct rundir *d, void *arg, struct err *err)
{
	const struct vmm_restore *q = arg;
	json_t *timings = NULL;
	struct vmm *v;

	if (publish_ports(d, q->forward, q->nforwards, err) < 0 ||
	    vmm_restore(d, q, false, &v, &timings, err) < 0)
		return EXIT_FAILED;
	spawn_ready(c, with_forwards(d, timings));
	int code = vmm_run(v, err);
	if (code != EXIT_OK)
		log_err("%s", err->msg);
	vmm_free(v);
	return code;
}

static int begin(const char *name, bool attached, spawn_body body, void *arg, struct rundir **out,
		 struct spawn *child, struct err *err)
{
	int r = rundir_create(name, out, err);

	if (r < 0)
		return r;
	r = spawn_begin(*out, attached, body, arg, child, err);
	if (r < 0) {
		rundir_remove(*out);
		*out = NULL;
	}
	return r;
}

static int finish(struct spawn *child, struct rundir **d, json_t **details, struct err *err)
{
	int r = spawn_finish(child, details, err);

	if (r < 0) {
		rundir_release(*d);
		*d = NULL;
	}
	return r;
}

int launch_boot(const char *name, const struct vmm_boot *b, bool attached, struct rundir **out,
		struct err *err)
{
	struct spawn child;
	json_t *details = NULL;
	int r = begin(name, attached, boot_body, (void *)(uintptr_t)b, out, &child, err);

	if (r == 0)
		r = finish(&child, out, &details, err);
	if (r == 0)
		take_forwards(*out, details);
	json_decref(details);
	return r;
}

unsigned launch_restores(const char *name, unsigned n, const struct vmm_restore *r,
			 struct launched *out, struct err *err)
{
	struct spawn *child = calloc(n, sizeof(*child));
	char numbered[VM_NAME_MAX + 16];
	unsigned begun = 0, up = 0;

	if (!child) {
		err_set(err, ENOMEM, "restore: out of memory");
		return 0;
	}
	for (unsigned i = 0; i < n; i++) {
		struct err e = ERR_INIT;

		if (name)
			snprintf(numbered, sizeof(numbered), n > 1 ? "%s-%u" : "%s", name, i + 1);
		if (begin(name ? numbered : NULL, false, restore_body, (void *)(uintptr_t)r,
			  &out[begun].dir, &child[begun], &e) == 0)
			begun++;
		else if (!err->code)
			*err = e;
	}
	for (unsigned i = 0; i < begun; i++) {
		struct err e = ERR_INIT;

		if (finish(&child[i], &out[i].dir, &out[i].timings, &e) == 0) {
			take_forwards(out[i].dir, out[i].timings);
			out[up++] = out[i];
		} else if (!err->code)
			*err = e;
	}
	free(child);
	return up;
}

/* Brings the VM up in this process; `arg` is the caller's struct vmm_boot or vmm_restore. */
typedef int (*bring_up)(struct rundir *d, const void *arg, struct vmm **out, struct err *err);

static int up_boot(struct rundir *d, const void *arg, struct vmm **out, struct err *err)
{
	const struct vmm_boot *b = arg;
	int r = publish_ports(d, b->forward, b->nforwards, err);

	return r < 0 ? r : vmm_boot(d, b, true, out, err);
}

static int up_restore(struct rundir *d, const void *arg, struct vmm **out, struct err *err)
{
	const struct vmm_restore *q = arg;
	int r = publish_ports(d, q->forward, q->nforwards, err);

	return r < 0 ? r : vmm_restore(d, q, true, out, NULL, err);
}

static int foreground(const char *name, bring_up up, const void *arg, struct err *err)
{
	struct rundir *d;
	struct vmm *v;
	int code;

	if (rundir_create(name, &d, err) < 0)
		return err_exit_code(err->code);
	if (up(d, arg, &v, err) == 0) {
		code = vmm_run(v, err);
		vmm_free(v);
	} else {
		code = err_exit_code(err->code);
	}
	rundir_remove(d);
	return code;
}

int foreground_boot(const char *name, const struct vmm_boot *b, struct err *err)
{
	return foreground(name, up_boot, b, err);
}

int foreground_restore(const char *name, const struct vmm_restore *r, struct err *err)
{
	return foreground(name, up_restore, r, err);
}
