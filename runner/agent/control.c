#include "runner/agent/control.h"

#include "runner/agent/cgroup.h"
#include "runner/agent/spawn.h"
#include "runner/proto/mailbox.h"
#include "smfs/base/log.h"
#include "smfs/base/num.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

static void note(struct agent_results *rs, const char *item, int r, uint64_t since,
		 const struct err *e)
{
	agent_result_add(rs, item, r < 0 ? -r : 0, monotonic_us() - since, "%s",
			 r < 0 ? e->msg : "");
	if (r < 0)
		log_warn("%s: %s", item, e->msg);
}

static int set_frozen(struct guest *g, bool freeze, struct agent_results *rs, struct err *err)
{
	uint64_t t = monotonic_us();
	struct err e = ERR_INIT;
	int r;

	/*
	 * Said before it is done and unsaid after, so that an exec is refused rather than stopped
	 * on its way into the frozen cgroup. One that has passed the check already waits for the
	 * thaw.
	 */
	if (freeze) {
		guest_lock(g);
		g->shared->frozen = true;
		guest_unlock(g);
	}
	if (g->cgroup)
		r = cgroup_freeze(g->cgroup, freeze, CONTROL_FREEZE_MS, &e);
	else
		r = err_set(&e, ENOTSUP, "this guest's kernel has no cgroup2 freezer");
	if (r < 0 || !freeze) {
		guest_lock(g);
		g->shared->frozen = r < 0 && !freeze;
		guest_unlock(g);
	}
	note(rs, freeze ? "freeze" : "thaw", r, t, &e);
	return r < 0 ? err_set(err, -r, "%s", e.msg) : 0;
}

static bool is_frozen(struct guest *g)
{
	bool frozen;

	guest_lock(g);
	frozen = g->shared->frozen;
	guest_unlock(g);
	return frozen;
}

/* What hooks may want to know; `buf` holds the strings. */
struct hook_env {
	char number[48], uuid[64], host[300];
	char *list[5];
};

static void hook_env(struct hook_env *h, uint64_t number, const uint8_t *u, const char *hostname)
{
	snprintf(h->number, sizeof(h->number), "SMVM_GENERATION=%llu", (unsigned long long)number);
	snprintf(h->uuid, sizeof(h->uuid),
		 "SMVM_UUID=%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x",
		 u[0], u[1], u[2], u[3], u[4], u[5], u[6], u[7], u[8], u[9], u[10], u[11], u[12],
		 u[13], u[14], u[15]);
	snprintf(h->host, sizeof(h->host), "SMVM_HOSTNAME=%s", hostname);
	h->list[0] = "PATH=" SPAWN_PATH;
	h->list[1] = h->number;
	h->list[2] = h->uuid;
	h->list[3] = h->host;
	h->list[4] = NULL;
}

static void hooks_with_identity(struct guest *g, const char *folder, struct agent_results *rs)
{
	char host[AGENT_NAME_MAX + 1] = "";
	uint8_t uuid[AGENT_UUID_LEN];
	struct hook_env h;
	uint64_t number;

	gethostname(host, sizeof(host) - 1);
	guest_lock(g);
	number = g->shared->generation;
	memcpy(uuid, g->shared->uuid, sizeof(uuid));
	guest_unlock(g);
	hook_env(&h, number, uuid, host);
	hooks_run(g, folder, h.list, rs);
}

int control_prepare(struct guest *g, struct agent_results *rs, struct err *err)
{
	uint64_t t;
	int r;

	if (is_frozen(g))
		return err_set(err, EALREADY,
			       "prepare: the guest is frozen already; thaw it first");
	/* Before the freeze: a hook may have to talk to what it prepares. */
	hooks_with_identity(g, "pre-snapshot.d", rs);
	r = set_frozen(g, true, rs, err);
	if (r < 0)
		return r;
	t = monotonic_us();
	sync();
	note(rs, "sync", 0, t, NULL);
	return 0;
}

void control_unprepare(struct guest *g, struct agent_results *rs)
{
	if (is_frozen(g))
		set_frozen(g, false, rs, NULL);
}

int control_thaw(struct guest *g, struct agent_results *rs, struct err *err)
{
	return set_frozen(g, false, rs, err);
}

int control_clock(struct guest *g, uint64_t wall_ns, struct agent_results *rs, struct err *err)
{
	uint64_t t = monotonic_us();
	int r = g->identity->clock(g, wall_ns, err);

	if (r == 0)
		note(rs, "clock", 0, t, NULL);
	return r;
}

bool control_mailbox(const struct guest *g, uint64_t *number)
{
	struct mailbox m;

	if (!g->mailbox || !mailbox_get(g->mailbox, &m))
		return false;
	*number = m.generation;
	return true;
}

static void check_mailbox(struct guest *g, const struct agent_generation *gen,
			  struct agent_results *rs)
{
	uint64_t t = monotonic_us(), found;

	if (!control_mailbox(g, &found))
		return;
	agent_result_add(rs, "mailbox", found == gen->number ? 0 : ESTALE, monotonic_us() - t,
			 "generation %llu in the mailbox, %llu in the request",
			 (unsigned long long)found, (unsigned long long)gen->number);
}

int control_generation(struct guest *g, const struct agent_generation *gen,
		       struct agent_results *rs, struct err *err)
{
	struct err e = ERR_INIT;
	uint64_t t;
	int r = 0;

	/* A snapshot taken without PREPARE restores running: stop it, late but before the rest. */
	if (!is_frozen(g) && g->cgroup && (r = set_frozen(g, true, rs, err)) < 0)
		return r;
	check_mailbox(g, gen, rs);

	t = monotonic_us();
	r = g->identity->entropy(g, gen->entropy, gen->entropy_len, &e);
	note(rs, "entropy", r, t, &e);
	if (gen->wall_ns) {
		t = monotonic_us();
		r = g->identity->clock(g, gen->wall_ns, &e);
		note(rs, "clock", r, t, &e);
	}
	if (gen->hostname[0]) {
		t = monotonic_us();
		r = g->identity->hostname(g, gen->hostname, &e);
		note(rs, "hostname", r, t, &e);
	}
	if (gen->machine_id[0]) {
		t = monotonic_us();
		r = g->identity->machine_id(g, gen->machine_id, &e);
		note(rs, "machine-id", r, t, &e);
	}
	guest_lock(g);
	g->shared->generation = gen->number;
	memcpy(g->shared->uuid, gen->uuid, sizeof(gen->uuid));
	guest_unlock(g);
	hooks_with_identity(g, "post-restore.d", rs);
	return g->cgroup ? set_frozen(g, false, rs, err) : 0;
}
