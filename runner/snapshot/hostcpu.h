/*
 * hostcpu.h - which CPU a snapshot was taken on, and whether this host's will do.
 *
 * The guest has read CPUID once and acted on it; nothing takes that back. So a snapshot keeps the
 * vendor, family and model, and those CPUID feature words that the guest saw *and* the host's CPU
 * itself had (features KVM emulates, such as TSC_DEADLINE, do not depend on the CPU). A host fits
 * when vendor, family and model are the same and no kept bit is missing. Stepping and microcode are
 * kept for people; they do not decide.
 *
 * The host's words are read with the CPUID instruction rather than KVM_GET_SUPPORTED_CPUID: that
 * ioctl alone takes 300 us, a third of a whole restore.
 */
#ifndef RUNNER_SNAPSHOT_HOSTCPU_H
#define RUNNER_SNAPSHOT_HOSTCPU_H

#include <stdint.h>

#include "smfs/base/err.h"

#define CPU_WORDS_MAX 32

enum cpu_reg { CPU_EAX, CPU_EBX, CPU_ECX, CPU_EDX };

struct cpu_word {
	uint32_t leaf, subleaf;
	uint8_t reg; /* enum cpu_reg */
	uint32_t value;
};

struct snapshot_cpu {
	char vendor[13];
	uint32_t family, model, stepping;
	uint64_t microcode; /* 0: unknown */
	struct cpu_word word[CPU_WORDS_MAX];
	unsigned nwords;
};

struct kvm_cpuid2;

/* This host's CPU; feature words masked by the guest's table when one is given. */
void hostcpu_get(struct snapshot_cpu *out, const struct kvm_cpuid2 *guest);

/* Microcode revision from /proc/cpuinfo, 0 if it does not say. Slow (1 ms): for capture only. */
uint64_t hostcpu_microcode(void);

/* 0 if a snapshot taken on `snap` can run on `host`; else ENOTSUP naming what is lost. */
int hostcpu_fits(const struct snapshot_cpu *snap, const struct snapshot_cpu *host, struct err *err);

/* "avx512f", or NULL for a bit without a name here. */
const char *hostcpu_bit_name(uint32_t leaf, uint32_t subleaf, enum cpu_reg reg, unsigned bit);

#endif
