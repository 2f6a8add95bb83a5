/*
 * pit.h - the interval timer (i8254), which KVM makes for a machine only once it has a use for it.
 *
 * KVM's timer comes with a kernel thread of its own, and its making waits for that thread to be
 * made: up to a scheduler tick when the processors are busy, in the way of a guest's first
 * instruction. But a guest that has been up for a moment is done with it: Linux takes the time from
 * elsewhere, and if it has used the timer it has stopped it. So a restored machine gets it only if
 * an interrupt of it may be awaited. Else the state is held here; the first access to its ports
 * brings KVM's to life with that state and is answered here (x86/i8254.h), and all later ones are
 * KVM's.
 *
 * LOCK. pit_save() and the accesses run under the device lock; the rest before the vCPUs run.
 */
#ifndef RUNNER_VM_PIT_H
#define RUNNER_VM_PIT_H

#include <linux/kvm.h>

#include "runner/vm/device.h"
#include "runner/x86/state.h"

struct pit {
	bool in_kvm;
	struct kvm_pit_state2 held; /* until it is in KVM */
	/* Its windows on the port bus. Not among the VM's devices: its state has a section of its
	 * own. */
	struct device counters, speaker;
};

/* A new machine's timer: KVM's, at once. After the interrupt controllers. */
int pit_create(struct vm *vm, struct err *err);
/* A restored machine's, which has none yet, or one that is reset. The interrupt controllers say whether it can be heard.
 */
int pit_restore(struct vm *vm, const struct vm_irq_state *s, struct err *err);
int pit_save(struct vm *vm, struct kvm_pit_state2 *out, struct err *err);

#endif
