#include "runner/control/requests.h"

#include "runner/control/fork.h"
#include "runner/control/identity.h"
#include "runner/control/jsontext.h"
#include "runner/control/saves.h"
#include "runner/control/vmm_internal.h"
#include "runner/control/ws.h"
#include "runner/guest/agent_client.h"
#include "runner/snapshot/state_items.h"

#include "smfs/base/clock.h"
#include "smfs/base/hex.h"
#include "smfs/base/num.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>

#define INFO_WAIT_MS  10000
#define STOP_EXTRA_MS 5000

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
	struct agent_info i = {0};
	struct agent *a;
	int r = saves_check(v, &err);

	if (r == 0)
		r = vmm_agent(v, INFO_WAIT_MS, &a, &err);
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

	for (const struct device *d = v->machine.vm->devices; d; d = d->next) {
		const struct state_item *s = state_item_of_device(d->ops->type);

		json_array_append_new(
			devices, json_pack("{s:s, s:s, s:I, s:i, s:s*}", "id", d->id, "type",
					   d->ops->type, "base", (json_int_t)d->base, "gsi", d->gsi,
					   "class", s ? state_class_name(s->class) : NULL));
	}
	json_object_set_new(reply, "uuid", json_string(hex_encode(v->uuid, sizeof(v->uuid), uuid)));
	json_object_set_new(reply, "kernel", json_text(v->kernel));
	json_object_set_new(reply, "devices", devices);
	if (v->has_agent)
		json_object_set_new(reply, "guest", agent_json(v));
	if (v->restored)
		json_object_set(reply, "restored", v->restored);
	if (v->prefault)
		json_object_set_new(reply, "prefault", prefault_json(v->prefault));
	if (v->save.last)
		json_object_set(reply, "snapshot", v->save.last);
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
		saves_resume(v);
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
					  {"snapshot", saves_request},
					  {"fork", fork_request},
					  {"ws", ws_request},
					  {"stop", op_stop},
					  {"console", op_console},
					  {0}};
