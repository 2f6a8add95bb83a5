/*
 * control.h - the generation contract: freeze for a snapshot, and become somebody else after it.
 *
 *     PREPARE     pre-snapshot hooks, freeze, sync.    The guest stays frozen.
 *     THAW        thaw: the original goes on as it was.
 *     GENERATION  entropy, clock, hostname, machine-id, post-restore hooks, and only then thaw:
 *                 no program of the user's ever runs with the old identity.
 *
 * Hooks are programs of the image in <root>/etc/smvm/{pre-snapshot,post-restore}.d, run in name
 * order, outside the frozen cgroup, as root, each with a time limit. A hook that fails is a result
 * and stops nothing.
 *
 * The caller holds control_claim().
 */
#ifndef RUNNER_AGENT_CONTROL_H
#define RUNNER_AGENT_CONTROL_H

#include "runner/agent/guest.h"

/* Generous: they end what hangs, and a guest that has just been restored faults all its memory in.
 */
#define CONTROL_FREEZE_MS 30000
#define CONTROL_HOOK_MS	  20000 /* each */
#define CONTROL_HOOKS_MS  40000 /* all together */
#define CONTROL_HOOKS_MAX 64
#define CONTROL_HOOK_DIR  "/etc/smvm"

/* Fails, thawed again, when the freeze did. */
int control_prepare(struct guest *g, struct agent_results *rs, struct err *err);
/* Take a prepare back whose answer did not arrive. */
void control_unprepare(struct guest *g, struct agent_results *rs);
int control_thaw(struct guest *g, struct agent_results *rs, struct err *err);
/* Set the clock. */
int control_clock(struct guest *g, uint64_t wall_ns, struct agent_results *rs, struct err *err);
/* Fails only when the workload could not be frozen or thawed; everything else is a result. */
int control_generation(struct guest *g, const struct agent_generation *gen,
		       struct agent_results *rs, struct err *err);

/* The generation number in the mailbox page; false when there is none to read. */
bool control_mailbox(const struct guest *g, uint64_t *number);

/* Run the hooks of one folder, e.g. "post-restore.d", with `env` (NULL-terminated). */
void hooks_run(struct guest *g, const char *folder, char *const *env, struct agent_results *rs);

#endif
