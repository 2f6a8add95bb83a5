#include "runner/control/requests.h"

#include "runner/control/identity.h"
#include "runner/control/jsontext.h"
#include "runner/control/vmm_internal.h"
#include "runner/control/where.h"
#include "runner/guest/agent_client.h"
#include "runner/snapshot/save.h"

#include "smfs/base/hex.h"
#include "smfs/base/log.h"
#include "smfs/base/num.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>

#define INFO_WAIT_MS	10000
#define PREPARE_WAIT_MS 60000
#define STOP_EXTRA_MS	5000

/* ---- info ---------------------------------------------------------------------------------- */

static const char *entry_state(const struct agent_info *i)
{
	return i->entry_state == AGENT_ENTRY_RUNNING  ? "running"
	       : i->entry_state == AGENT_ENTRY_EXITED ? "exited"
						      : "none";
}

static json_t *agent_json(struct vmm *v)
{
	struct err err = ERR_INIT;
	struct agent_info i;
	struct agent *a;
	int r = vmm_agent(v, INFO_WAIT_MS, &a, &err);

	if (r == 0) {
		r = agent_info(a, &i, INFO_WAIT_MS, &err);
		agent_close(a);
	}
	if (r < 0)
		return json_pack("{s:o}", "error", json_text(err.msg));
	json_t *j = json_pack("{s:I, s:I, s:s, s:b, s:I, s:b, s:o, s:o, s:o}", "uptime_ms",
			      (json_int_t)i.uptime_ms, "ready_ms", (json_int_t)i.ready_ms,
			      "entrypoint", entry_state(&i), "frozen", i.frozen, "generation",
			      (json_int_t)i.generation, "mailbox", i.mailbox, "kernel",
			      json_text(i.kernel), "rootfs", json_text(i.rootfs), "agent",
			      json_text(i.agent));
	if (i.entry_state == AGENT_ENTRY_EXITED)
		json_object_set_new(j, "exit_status",
				    json_integer(agent_exit_status(&i.entry_exit)));
	if (i.mailbox)
		json_object_set_new(j, "mailbox_generation",
				    json_integer((json_int_t)i.mailbox_generation));
	return j;
}

static int op_info(void *arg, struct control_request *rq, const json_t *body, json_t *reply,
		   struct err *err)
{
	struct vmm *v = arg;
	char uuid[33];
	json_t *devices = json_array();

	for (const struct device *d = v->machine.vm->devices; d; d = d->next)
		json_array_append_new(devices, json_pack("{s:s, s:s, s:I, s:i}", "id", d->id,
							 "type", d->ops->type, "base",
							 (json_int_t)d->base, "gsi", d->gsi));
	json_object_set_new(reply, "uuid", json_string(hex_encode(v->uuid, sizeof(v->uuid), uuid)));
	json_object_set_new(reply, "kernel", json_text(v->kernel));
	json_object_set_new(reply, "devices", devices);
	if (v->has_agent)
		json_object_set_new(reply, "guest", agent_json(v));
	if (v->restored)
		json_object_set(reply, "restored", v->restored);
	return 0;
}

/* ---- snapshot ------------------------------------------------------------------------------ */

/*
 * The workload is frozen from before the snapshot until it is known how it ended; a restored
 * copy thaws only with its new identity. That copy's first connection finds the agent frozen.
 */
static int save_frozen(struct vmm *v, const struct save_info *info, bool use_agent,
		       struct save_stats *stats, struct err *err)
{
	struct err thaw_err = ERR_INIT;
	struct agent *a = NULL;
	int r = 0;

	if (use_agent) {
		r = vmm_agent(v, PREPARE_WAIT_MS, &a, err);
		if (r == 0)
			r = agent_prepare(a, PREPARE_WAIT_MS, NULL, err);
		if (r < 0) {
			agent_close(a);
			return err_wrap(err, r, "prepare the guest (--no-agent skips this)");
		}
	}
	r = snapshot_save(&v->machine, info, stats, err);
	/* A guest that has ended meanwhile has nothing to thaw, and would not answer. */
	bool thaw = use_agent && atomic_load(&v->machine.vm->end) == VM_RUNNING;
	if (thaw && agent_thaw(a, PREPARE_WAIT_MS, NULL, &thaw_err) < 0) {
		/* One more try over a fresh connection: a guest left frozen is worse than a slow
		 * reply. */
		agent_close(a);
		a = NULL;
		int again = vmm_agent(v, PREPARE_WAIT_MS, &a, &thaw_err);

		if (again == 0)
			again = agent_thaw(a, PREPARE_WAIT_MS, NULL, &thaw_err);
		if (again < 0) {
			log_err("thaw the guest: %s", thaw_err.msg);
			if (r == 0)
				r = err_set(
					err, thaw_err.code,
					"the snapshot is saved, but the guest does not thaw: %s",
					thaw_err.msg);
		}
	}
	agent_close(a);
	return r;
}

static int op_snapshot(void *arg, struct control_request *rq, const json_t *body, json_t *reply,
		       struct err *err)
{
	struct vmm *v = arg;
	const char *name = json_string_value(json_object_get(body, "name"));
	bool no_agent = json_is_true(json_object_get(body, "no_agent"));
	uint64_t t0 = vmm_now_us();
	struct save_stats st = {0};
	char store[PATH_MAX];

	if (!name)
		return err_set(err, EPROTO, "control request: snapshot without a name");
	int r = where_store(v->mount, store, err);
	if (r < 0)
		return r;
	struct save_info info = {.store = store,
				 .mount = v->mount,
				 .name = name,
				 .kernel_path = v->kernel,
				 .image_ref = v->image,
				 .rootfs = v->rootfs,
				 .generation = v->generation,
				 .uuid = v->uuid};
	r = save_frozen(v, &info, v->has_agent && !no_agent, &st, err);
	if (r < 0)
		return r;
	json_t *j = json_pack(
		"{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "name", name, "ram_bytes",
		(json_int_t)st.ram_bytes, "data_bytes", (json_int_t)st.data_bytes, "new_bytes",
		(json_int_t)st.new_bytes, "stored_bytes", (json_int_t)st.stored_bytes, "pause_us",
		(json_int_t)st.pause_us, "capture_us", (json_int_t)st.capture_us, "save_us",
		(json_int_t)st.save_us, "total_us", (json_int_t)(vmm_now_us() - t0));
	json_object_update(reply, j);
	json_decref(j);
	return 0;
}

/* ---- stop, console ------------------------------------------------------------------------- */

static void wait_end(struct vmm *v, int timeout_ms)
{
	struct pollfd p = {.fd = v->machine.vm->end_fd, .events = POLLIN};

	while (poll(&p, 1, timeout_ms) < 0 && errno == EINTR)
		;
}

static int op_stop(void *arg, struct control_request *rq, const json_t *body, json_t *reply,
		   struct err *err)
{
	struct vmm *v = arg;
	bool force = json_is_true(json_object_get(body, "force"));
	json_int_t grace = json_integer_value(json_object_get(body, "grace_ms"));
	struct agent *a = NULL;
	int r = -1;

	grace = grace < 0 ? 0 : MIN(grace, 3600 * 1000);
	if (!force && v->has_agent) {
		r = vmm_agent(v, (int)grace + INFO_WAIT_MS, &a, err);
		if (r == 0)
			r = agent_stop(a, (unsigned)grace, (int)grace + STOP_EXTRA_MS, err);
		agent_close(a);
		if (r == 0)
			wait_end(v, (int)grace + STOP_EXTRA_MS);
	}
	bool graceful = atomic_load(&v->machine.vm->end) == VM_SHUTDOWN;
	if (!graceful)
		vm_end(v->machine.vm, VM_STOPPED);
	err_clear(err);
	json_object_set_new(reply, "graceful", json_boolean(graceful));
	return 0;
}

static void take_console(void *arg, int fd)
{
	struct vmm *v = arg;

	console_attach(v->console, fd, fd, true);
}

static int op_console(void *arg, struct control_request *rq, const json_t *body, json_t *reply,
		      struct err *err)
{
	control_detach(rq, take_console, arg);
	return 0;
}

const struct control_op vmm_requests[] = {{"info", op_info},
					  {"snapshot", op_snapshot},
					  {"stop", op_stop},
					  {"console", op_console},
					  {0}};
