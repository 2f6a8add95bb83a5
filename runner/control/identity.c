#include "runner/control/identity.h"

#include "runner/control/console.h"
#include "runner/control/jsontext.h"
#include "runner/control/vmm_internal.h"
#include "runner/guest/agent_client.h"

#include "smfs/base/hex.h"
#include "smfs/base/log.h"
#include "smfs/base/num.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define ENTROPY_LEN	   64
#define AGENT_WAIT_MS	   60000
#define GENERATION_WAIT_MS 60000
#define HOSTNAME_LEN	   63
/* Of all details together: one answer may carry the results of a thousand children. */
#define RESULTS_TEXT_MAX 8192

int identity_uuid(uint8_t uuid[16], struct err *err)
{
	if (getrandom(uuid, 16, 0) != 16)
		return err_errno(err, "make a uuid");
	uuid[6] = (uint8_t)((uuid[6] & 0x0f) | 0x40);
	uuid[8] = (uint8_t)((uuid[8] & 0x3f) | 0x80);
	return 0;
}

char *identity_hostname(const char *name)
{
	char *h = strndup(name, HOSTNAME_LEN);

	for (char *p = h; p && *p; p++)
		if (!isalnum((unsigned char)*p))
			*p = '-';
	return h;
}

char *identity_machine_id(const uint8_t uuid[16])
{
	char *id = malloc(33);

	return id ? hex_encode(uuid, 16, id) : NULL;
}

int vmm_ended(struct vmm *v, struct err *err)
{
	const int e = atomic_load(&v->machine.vm->end);
	char path[RUNDIR_PATH_MAX], last[256];

	if (e == VM_RUNNING)
		return 0;
	if (e == VM_FAILED)
		return err_set(err, ECONNRESET, "the VM failed: %s", v->machine.vm->end_err.msg);
	/* Its directory goes with the VM: what it says must be said now. */
	console_last_line(rundir_file(v->dir, "console.log", path), last, sizeof(last));
	return err_set(err, ECONNRESET, "the guest %s before it was ready; last console line: %s",
		       vmm_end_name(e), last[0] ? last : "(none)");
}

int vmm_agent_unless(struct vmm *v, int timeout_ms, int stop_fd, struct agent **out,
		     struct err *err)
{
	char path[RUNDIR_PATH_MAX];
	int r = agent_connect_unless(rundir_file(v->dir, "vsock.sock", path), timeout_ms, stop_fd,
				     out, err);
	int ended = r == -ECANCELED ? vmm_ended(v, err) : 0;

	return ended < 0 ? ended : r;
}

int vmm_agent(struct vmm *v, int timeout_ms, struct agent **out, struct err *err)
{
	return vmm_agent_unless(v, timeout_ms, v->machine.vm->end_fd, out, err);
}

static int fill(struct vmm *v, enum clock_policy clock, struct agent_generation *g, struct err *err)
{
	*g = (struct agent_generation){.number = v->generation,
				       .entropy_len = ENTROPY_LEN,
				       .wall_ns = clock == CLOCK_ADVANCE ? AGENT_WALL_NOW : 0};
	memcpy(g->uuid, v->uuid, sizeof(g->uuid));
	if (getrandom(g->entropy, ENTROPY_LEN, 0) != ENTROPY_LEN)
		return err_errno(err, "draw entropy for the guest");
	char *host = identity_hostname(v->dir->info.name), *id = identity_machine_id(v->uuid);
	if (host && id) {
		snprintf(g->hostname, sizeof(g->hostname), "%s", host);
		snprintf(g->machine_id, sizeof(g->machine_id), "%s", id);
	}
	int r = host && id ? 0 : err_set(err, ENOMEM, "name the guest: out of memory");
	free(host);
	free(id);
	return r;
}

int identity_give(struct vmm *v, enum clock_policy clock, struct agent_results **results,
		  struct err *err)
{
	struct agent_results *rs = calloc(1, sizeof(*rs));
	struct agent_generation *g = malloc(sizeof(*g));
	struct agent *a = NULL;
	int r = rs && g ? fill(v, clock, g, err)
			: err_set(err, ENOMEM, "name the guest: out of memory");

	if (r == 0)
		r = vmm_agent(v, AGENT_WAIT_MS, &a, err);
	if (r == 0)
		r = agent_generation(a, g, GENERATION_WAIT_MS, rs, err);
	agent_close(a);
	if (g)
		explicit_bzero(g->entropy, sizeof(g->entropy));
	free(g);
	if (r < 0) {
		free(rs);
		return err_wrap(err, r, "give the restored guest its identity");
	}
	for (unsigned i = 0; i < rs->n; i++)
		if (rs->r[i].code)
			log_warn("new generation: %s failed with %u: %s", rs->r[i].item,
				 rs->r[i].code, rs->r[i].detail);
	*results = rs;
	return 0;
}

json_t *identity_results_json(const struct agent_results *r)
{
	json_t *list = r ? json_array() : NULL;
	size_t room = RESULTS_TEXT_MAX;

	for (unsigned i = 0; list && i < r->n; i++) {
		const struct agent_result *x = &r->r[i];
		const char *detail = strlen(x->detail) <= room ? x->detail : "(cut)";
		json_t *j = json_pack("{s:o, s:i, s:I, s:o}", "item", json_text(x->item), "code",
				      (int)x->code, "us", (json_int_t)x->us, "detail",
				      json_text(detail));

		room -= MIN(room, strlen(detail));
		if (x->limit_ms)
			json_object_set_new(j, "limit_ms", json_integer(x->limit_ms));
		json_array_append_new(list, j);
	}
	return list;
}
