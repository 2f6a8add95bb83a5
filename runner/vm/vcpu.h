/*
 * vcpu.h - one virtual CPU: its descriptor, its run page and its thread.
 *
 * PAUSE. The VM sets its pause flag, then each run page's immediate_exit, then signals each thread:
 * whichever side of the KVM_RUN system call the thread is on, it comes out. The thread then
 * re-enters KVM_RUN with immediate_exit still set until KVM says EINTR: that completes an I/O
 * exit whose result had not reached the registers yet. Only then does it park, and only then may
 * its state be read.
 *
 * The signal is VCPU_SIGNAL with an empty handler; vm_start() installs it for the process.
 */
#ifndef RUNNER_VM_VCPU_H
#define RUNNER_VM_VCPU_H

#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

#include "smfs/base/err.h"

#define VCPU_SIGNAL (SIGRTMIN + 4)

struct vm;

struct vcpu {
	struct vm *vm;
	unsigned index;
	int fd;
	struct kvm_run *run;
	size_t run_len;
	pthread_t thread;
	bool started;
};

int vcpu_new(struct vm *vm, unsigned index, size_t run_len, struct vcpu **out, struct err *err);
void vcpu_free(struct vcpu *c);
int vcpu_start(struct vcpu *c, struct err *err);
/* Get the thread out of KVM_RUN soon. Any thread, or a signal handler. */
void vcpu_kick(struct vcpu *c);

#endif
