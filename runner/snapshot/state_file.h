/*
 * state_file.h - the vCPUs' and the VM's state (x86/state.h) as sections of the `vcpu` file.
 *
 * Payloads are KVM's own structs as <linux/kvm.h> lays them out on x86-64: a kernel interface, so
 * as stable as a format of our own. doc/snapshot-format.md lists them.
 *
 * Reading refuses (EBADMSG) a missing section, a length that is not exactly the struct's, a count
 * above the limit; then vcpu_state_check() has its say. All of it before a VM exists.
 */
#ifndef RUNNER_SNAPSHOT_STATE_FILE_H
#define RUNNER_SNAPSHOT_STATE_FILE_H

#include "runner/snapshot/sections.h"
#include "runner/x86/state.h"

void state_file_put_vcpu(struct writer *w, unsigned index, const struct vcpu_state *s);
int state_file_get_vcpu(const struct sections *f, unsigned index, struct vcpu_state *s,
			struct err *err);

void state_file_put_vm(struct writer *w, const struct vm_irq_state *s);
int state_file_get_vm(const struct sections *f, struct vm_irq_state *s, struct err *err);

#endif
