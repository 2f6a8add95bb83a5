/* hostcpu.c - reading, naming and comparing CPU features. */
#include "runner/snapshot/hostcpu.h"

#include <cpuid.h>
#include <linux/kvm.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "smfs/base/cleanup.h"
#include "smfs/base/num.h"

/*
 * The words that are feature bits (Intel SDM volume 2A, CPUID; AMD APM volume 3, appendix E).
 * 0xd.0 is the mask of XSAVE components: its bits size and lay out the FPU state.
 * Names are those of /proc/cpuinfo.
 */
static const struct word_def {
	uint32_t leaf, subleaf;
	enum cpu_reg reg;
	const char *names[32];
} words[] = {
	{0x1, 0, CPU_ECX, {"sse3", "pclmulqdq", "dtes64", "monitor", "ds_cpl", "vmx",	 "smx",
			   "est",  "tm2",	"ssse3",  "cid",     "sdbg",   "fma",	 "cx16",
			   "xtpr", "pdcm",	NULL,	  "pcid",    "dca",    "sse4_1", "sse4_2",
			   NULL,   "movbe",	"popcnt", NULL,	     "aes",    "xsave",	 NULL,
			   "avx",  "f16c",	"rdrand", NULL}},
	{0x1, 0, CPU_EDX, {"fpu",  "vme",   "de",   "pse",     "tsc",  "msr", "pae",  "mce",
			   "cx8",  "apic",  NULL,   "sep",     "mtrr", "pge", "mca",  "cmov",
			   "pat",  "pse36", "pn",   "clflush", NULL,   "dts", "acpi", "mmx",
			   "fxsr", "sse",   "sse2", "ss",      NULL,   "tm",  "ia64", "pbe"}},
	{0x7, 0, CPU_EBX, {"fsgsbase", NULL,	     "sgx",	 "bmi1",       "hle",
			   "avx2",     NULL,	     "smep",	 "bmi2",       "erms",
			   "invpcid",  "rtm",	     "cqm",	 NULL,	       "mpx",
			   "rdt_a",    "avx512f",    "avx512dq", "rdseed",     "adx",
			   "smap",     "avx512ifma", NULL,	 "clflushopt", "clwb",
			   "intel_pt", "avx512pf",   "avx512er", "avx512cd",   "sha_ni",
			   "avx512bw", "avx512vl"}},
	{0x7,
	 0,
	 CPU_ECX,
	 {"prefetchwt1",
	  "avx512vbmi",
	  "umip",
	  "pku",
	  NULL,
	  "waitpkg",
	  "avx512_vbmi2",
	  "shstk",
	  "gfni",
	  "vaes",
	  "vpclmulqdq",
	  "avx512_vnni",
	  "avx512_bitalg",
	  "tme",
	  "avx512_vpopcntdq",
	  NULL,
	  "la57",
	  NULL,
	  NULL,
	  NULL,
	  NULL,
	  NULL,
	  "rdpid",
	  NULL,
	  "bus_lock_detect",
	  "cldemote",
	  NULL,
	  "movdiri",
	  "movdir64b",
	  "enqcmd",
	  "sgx_lc",
	  "pks"}},
	{0x7,
	 0,
	 CPU_EDX,
	 {NULL,
	  NULL,
	  "avx512_4vnniw",
	  "avx512_4fmaps",
	  "fsrm",
	  NULL,
	  NULL,
	  NULL,
	  "avx512_vp2intersect",
	  NULL,
	  "md_clear",
	  NULL,
	  NULL,
	  NULL,
	  "serialize",
	  NULL,
	  "tsxldtrk",
	  NULL,
	  "pconfig",
	  "arch_lbr",
	  "ibt",
	  NULL,
	  "amx_bf16",
	  "avx512_fp16",
	  "amx_tile",
	  "amx_int8",
	  "spec_ctrl",
	  "intel_stibp",
	  "flush_l1d",
	  "arch_capabilities",
	  NULL,
	  "spec_ctrl_ssbd"}},
	{0x7,
	 1,
	 CPU_EAX,
	 {[4] = "avx_vnni",
	  [5] = "avx512_bf16",
	  [7] = "cmpccxadd",
	  [10] = "fzrm",
	  [11] = "fsrs",
	  [12] = "fsrc",
	  [21] = "amx_fp16",
	  [23] = "avx_ifma",
	  [26] = "lam"}},
	{0x7,
	 1,
	 CPU_EDX,
	 {[4] = "avx_vnni_int8",
	  [5] = "avx_ne_convert",
	  [8] = "amx_complex",
	  [14] = "prefetchiti"}},
	{0xd,
	 0,
	 CPU_EAX,
	 {"xsave:x87", "xsave:sse", "xsave:avx", "xsave:bndregs", "xsave:bndcsr", "xsave:opmask",
	  "xsave:zmm_hi256", "xsave:hi16_zmm", NULL,
	  "xsave:pkru", [17] = "xsave:tilecfg", [18] = "xsave:tiledata"}},
	{0xd, 1, CPU_EAX, {"xsaveopt", "xsavec", "xgetbv1", "xsaves", "xfd"}},
	{0x80000001, 0, CPU_ECX, {"lahf_lm",	"cmp_legacy",  "svm",
				  "extapic",	"cr8_legacy",  "abm",
				  "sse4a",	"misalignsse", "3dnowprefetch",
				  "osvw",	"ibs",	       "xop",
				  "skinit",	"wdt",	       NULL,
				  "lwp",	"fma4",	       "tce",
				  NULL,		"nodeid_msr",  NULL,
				  "tbm",	"topoext",     "perfctr_core",
				  "perfctr_nb", NULL,	       "bpext",
				  "ptsc",	"perfctr_llc", "mwaitx",
				  NULL,		NULL}},
	{0x80000001,
	 0,
	 CPU_EDX,
	 {[11] = "syscall",
	  [19] = "mp",
	  [20] = "nx",
	  [22] = "mmxext",
	  [25] = "fxsr_opt",
	  [26] = "pdpe1gb",
	  [27] = "rdtscp",
	  [29] = "lm",
	  [30] = "3dnowext",
	  [31] = "3dnow"}},
	{0x80000008,
	 0,
	 CPU_EBX,
	 {[0] = "clzero",
	  [2] = "xsaveerptr",
	  [4] = "rdpru",
	  [9] = "wbnoinvd",
	  [12] = "amd_ibpb",
	  [14] = "amd_ibrs",
	  [15] = "amd_stibp",
	  [24] = "amd_ssbd"}},
};

const char *hostcpu_bit_name(uint32_t leaf, uint32_t subleaf, enum cpu_reg reg, unsigned bit)
{
	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		if (words[i].leaf == leaf && words[i].subleaf == subleaf && words[i].reg == reg)
			return bit < 32 ? words[i].names[bit] : NULL;
	return NULL;
}

/* What the guest's table says; a leaf it lacks reads as zeros. */
static uint32_t guest_word(const struct kvm_cpuid2 *guest, const struct word_def *w)
{
	for (uint32_t i = 0; i < guest->nent; i++) {
		const struct kvm_cpuid_entry2 *e = &guest->entries[i];

		if (e->function != w->leaf)
			continue;
		if ((e->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) && e->index != w->subleaf)
			continue;
		switch (w->reg) {
		case CPU_EAX:
			return e->eax;
		case CPU_EBX:
			return e->ebx;
		case CPU_ECX:
			return e->ecx;
		case CPU_EDX:
			return e->edx;
		}
	}
	return 0;
}

void hostcpu_get(struct snapshot_cpu *out, const struct kvm_cpuid2 *guest)
{
	uint32_t r[4] = {0}, max, max_ext, sig, leaf = 0, subleaf = 0;

	memset(out, 0, sizeof(*out));
	__cpuid(0, max, r[1], r[2], r[3]);
	memcpy(out->vendor, &r[1], 4);
	memcpy(out->vendor + 4, &r[3], 4);
	memcpy(out->vendor + 8, &r[2], 4);
	__cpuid(0x80000000, max_ext, r[1], r[2], r[3]);

	/* Inside a virtual machine each CPUID is an exit: words of one leaf share theirs. */
	for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
		const struct word_def *w = &words[i];
		uint32_t value;

		if (w->leaf > (w->leaf & 0x80000000 ? max_ext : max))
			continue;
		if (i == 0 || w->leaf != leaf || w->subleaf != subleaf) {
			leaf = w->leaf;
			subleaf = w->subleaf;
			__cpuid_count(leaf, subleaf, r[0], r[1], r[2], r[3]);
		}
		if (leaf == 1) {
			sig = r[0];
			out->family = (sig >> 8) & 0xf;
			out->model = (sig >> 4) & 0xf;
			if (out->family == 6 || out->family == 15)
				out->model |= ((sig >> 16) & 0xf) << 4;
			if (out->family == 15)
				out->family += (sig >> 20) & 0xff;
			out->stepping = sig & 0xf;
		}
		value = r[w->reg];
		if (guest)
			value &= guest_word(guest, w);
		out->word[out->nwords++] = (struct cpu_word){
			.leaf = w->leaf, .subleaf = w->subleaf, .reg = w->reg, .value = value};
	}
}

uint64_t hostcpu_microcode(void)
{
	cleanup_file FILE *f = fopen("/proc/cpuinfo", "re");
	char line[4096];

	while (f && fgets(line, sizeof(line), f)) {
		const char *colon = strchr(line, ':');

		if (colon && strncmp(line, "microcode", 9) == 0)
			return strtoull(colon + 1, NULL, 0);
	}
	return 0;
}

static uint32_t word_of(const struct snapshot_cpu *cpu, const struct cpu_word *like)
{
	for (unsigned i = 0; i < cpu->nwords; i++) {
		const struct cpu_word *w = &cpu->word[i];

		if (w->leaf == like->leaf && w->subleaf == like->subleaf && w->reg == like->reg)
			return w->value;
	}
	return 0;
}

/* Appends the names of `lost` bits; false once `buf` is full. */
static bool name_bits(char *buf, size_t size, const struct cpu_word *w, uint32_t lost)
{
	for (unsigned bit = 0; bit < 32; bit++) {
		const char *name = hostcpu_bit_name(w->leaf, w->subleaf, w->reg, bit);
		size_t n = strlen(buf);
		int k;

		if (!(lost & (1u << bit)))
			continue;
		if (name)
			k = snprintf(buf + n, size - n, " %s", name);
		else
			k = snprintf(buf + n, size - n, " cpuid:0x%x.%u.%c:%u", w->leaf, w->subleaf,
				     "abcd"[w->reg], bit);
		if (k < 0 || (size_t)k >= size - n) {
			buf[n] = 0;
			return false;
		}
	}
	return true;
}

int hostcpu_fits(const struct snapshot_cpu *snap, const struct snapshot_cpu *host, struct err *err)
{
	char names[512] = "";
	bool lost_any = false, whole = true;

	if (strcmp(snap->vendor, host->vendor) != 0 || snap->family != host->family ||
	    snap->model != host->model)
		return err_set(
			err, ENOTSUP,
			"snapshot was taken on CPU %s family %u model %u, this host is %s family "
			"%u model %u; restore it on a host of the same model",
			snap->vendor, snap->family, snap->model, host->vendor, host->family,
			host->model);
	for (unsigned i = 0; i < snap->nwords; i++) {
		const struct cpu_word *w = &snap->word[i];
		uint32_t lost = w->value & ~word_of(host, w);

		if (!lost)
			continue;
		lost_any = true;
		whole = whole && name_bits(names, sizeof(names), w, lost);
	}
	if (lost_any)
		return err_set(err, ENOTSUP, "this host's CPU lacks features the guest uses:%s%s",
			       names, whole ? "" : " ...");
	return 0;
}
