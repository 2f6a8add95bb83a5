/*
 * identity.h - what makes one VM not another: hostname, machine-id, uuid, entropy, time; and giving
 * a restored guest its own (the generation contract, DESIGN.md section 6).
 */
#ifndef RUNNER_CONTROL_IDENTITY_H
#define RUNNER_CONTROL_IDENTITY_H

#include <jansson.h>
#include <stdint.h>

#include "runner/proto/agent.h"
#include "runner/snapshot/clock_policy.h"

struct vmm;

/* A random (version 4) uuid. */
int identity_uuid(uint8_t uuid[16], struct err *err);
/* The VM's name as a hostname (malloc'd): what a hostname cannot hold becomes '-'. */
char *identity_hostname(const char *name);
/* 32 hexadecimal digits (malloc'd), derived from the uuid. */
char *identity_machine_id(const uint8_t uuid[16]);

/*
 * Tell the guest's agent who it is now; the agent applies it and thaws the workload. Waits for the
 * agent, and gives up early when the VM ends. *results is malloc'd. A step the agent could not do
 * is in the results and logged; the call fails only when the agent does not answer.
 */
int identity_give(struct vmm *v, enum clock_policy clock, struct agent_results **results,
		  struct err *err);

/*
 * [{"item": .., "us": .., "code": .., "detail": ..}], of hooks also "limit_ms"; NULL for no
 * results. Of bounded size: past 8 KiB of details they read "(cut)".
 */
json_t *identity_results_json(const struct agent_results *r);

/* Connect to the guest's agent within `timeout_ms`, unless the VM ends first (ECONNRESET). */
struct agent;
int vmm_agent(struct vmm *v, int timeout_ms, struct agent **out, struct err *err);
/*
 * The same, also given up (ECANCELED) when `stop_fd` is readable and the VM runs. It is readable at
 * the VM's end in any case, and outlives the connection.
 */
int vmm_agent_unless(struct vmm *v, int timeout_ms, int stop_fd, struct agent **out,
		     struct err *err);
/* ECONNRESET and how the VM ended, if it has; 0: it runs. */
int vmm_ended(struct vmm *v, struct err *err);

#endif
