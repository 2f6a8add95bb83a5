#include "runner/doctor/kvm_probe.h"

#include "smfs/base/cleanup.h"
#include "smfs/base/clock.h"
#include "smfs/base/num.h"

#include <fcntl.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

/* The machine: one slot of 2 MiB, mapped one to one by one large page. */
#define RAM_BYTES  (2 * MIB)
#define AT_PML4	   0x1000u
#define AT_PDPT	   0x2000u
#define AT_PD	   0x3000u
#define AT_CODE	   0x8000u
#define AT_STACK   0xa000u
#define PTE_RW	   3u /* present, writable */
#define PTE_LARGE  0x80u
#define CPUIDS_MAX 256

#define LOOP_INSNS  2 /* instructions per turn of the counting loop */
#define ENOUGH_US   25000
#define ROUGH_US    1000 /* a run of this length gives a figure already */
#define EXITS_FIRST 64

/*
 * rcx: how many turns of the loop. Port 0x80: done, port 0x81: one exit of many. KVM_SET_REGS puts
 * rip to one of the two entries.
 */
__asm__(".pushsection .rodata\n"
	"kvm_probe_code:\n"
	"	mov %cr3, %rax\n"
	"	mov %rax, %cr3\n"
	"	mov $0xc0000080, %ecx\n" /* EFER */
	"	rdmsr\n"
	"	wrmsr\n"
	"	sidt -16(%rsp)\n"
	"	lidt -16(%rsp)\n"
	"	xor %eax, %eax\n"
	"	cpuid\n"
	"	pushfq\n"
	"	popfq\n"
	"	out %al, $0x80\n"
	"kvm_probe_loop:\n"
	"1:	dec %rcx\n"
	"	jnz 1b\n"
	"	out %al, $0x80\n"
	"kvm_probe_exits:\n"
	"2:	out %al, $0x81\n"
	"	jmp 2b\n"
	"kvm_probe_end:\n"
	".popsection\n");
extern const uint8_t kvm_probe_code[], kvm_probe_loop[], kvm_probe_exits[], kvm_probe_end[];

struct probe {
	int kvm, vm, vcpu;
	uint8_t *ram;
	struct kvm_run *run;
	size_t run_len;
};

static void probe_close(struct probe *p)
{
	if (p->run)
		munmap(p->run, p->run_len);
	if (p->vcpu >= 0)
		close(p->vcpu);
	if (p->vm >= 0)
		close(p->vm);
	if (p->kvm >= 0)
		close(p->kvm);
	if (p->ram)
		munmap(p->ram, RAM_BYTES);
}

static void fill_ram(uint8_t *ram)
{
	const uint64_t pml4e = AT_PDPT | PTE_RW, pdpte = AT_PD | PTE_RW, pde = PTE_LARGE | PTE_RW;

	memcpy(ram + AT_PML4, &pml4e, sizeof(pml4e));
	memcpy(ram + AT_PDPT, &pdpte, sizeof(pdpte));
	memcpy(ram + AT_PD, &pde, sizeof(pde));
	memcpy(ram + AT_CODE, kvm_probe_code, (size_t)(kvm_probe_end - kvm_probe_code));
}

static int make_vm(struct probe *p, struct err *err)
{
	p->kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (p->kvm < 0)
		return err_errno(err, "open /dev/kvm");
	p->vm = ioctl(p->kvm, KVM_CREATE_VM, 0);
	if (p->vm < 0)
		return err_errno(err, "KVM_CREATE_VM");
	void *ram =
		mmap(NULL, RAM_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (ram == MAP_FAILED)
		return err_errno(err, "map 2 MiB for a guest");
	p->ram = ram;
	fill_ram(p->ram);
	struct kvm_userspace_memory_region slot = {.memory_size = RAM_BYTES,
						   .userspace_addr = (uintptr_t)ram};
	if (ioctl(p->vm, KVM_SET_USER_MEMORY_REGION, &slot) < 0)
		return err_errno(err, "KVM_SET_USER_MEMORY_REGION");
	return 0;
}

static int set_cpuid(struct probe *p, struct err *err)
{
	cleanup_free struct kvm_cpuid2 *c =
		calloc(1, sizeof(*c) + CPUIDS_MAX * sizeof(c->entries[0]));

	if (!c)
		return err_set(err, ENOMEM, "CPUID table: out of memory");
	c->nent = CPUIDS_MAX;
	if (ioctl(p->kvm, KVM_GET_SUPPORTED_CPUID, c) < 0)
		return err_errno(err, "KVM_GET_SUPPORTED_CPUID");
	if (ioctl(p->vcpu, KVM_SET_CPUID2, c) < 0)
		return err_errno(err, "KVM_SET_CPUID2");
	return 0;
}

/* 64-bit ring 0 with flat segments, as a kernel is entered. */
static int set_long_mode(struct probe *p, struct err *err)
{
	struct kvm_sregs s;

	if (ioctl(p->vcpu, KVM_GET_SREGS, &s) < 0)
		return err_errno(err, "KVM_GET_SREGS");
	struct kvm_segment data = {.limit = 0xffffffff,
				   .selector = 0x10,
				   .type = 3,
				   .present = 1,
				   .s = 1,
				   .db = 1,
				   .g = 1};
	struct kvm_segment code = data;
	code.selector = 0x08;
	code.type = 11;
	code.db = 0;
	code.l = 1;
	s.cs = code;
	s.ds = s.es = s.fs = s.gs = s.ss = data;
	s.cr0 = 0x80000011; /* PG, ET, PE */
	s.cr3 = AT_PML4;
	s.cr4 = 0x20;	/* PAE */
	s.efer = 0x500; /* LME, LMA */
	if (ioctl(p->vcpu, KVM_SET_SREGS, &s) < 0)
		return err_errno(err, "KVM_SET_SREGS");
	return 0;
}

static int make_vcpu(struct probe *p, struct err *err)
{
	int len = ioctl(p->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);

	if (len < (int)sizeof(struct kvm_run))
		return err_errno(err, "KVM_GET_VCPU_MMAP_SIZE");
	p->vcpu = ioctl(p->vm, KVM_CREATE_VCPU, 0);
	if (p->vcpu < 0)
		return err_errno(err, "KVM_CREATE_VCPU");
	void *run = mmap(NULL, (size_t)len, PROT_READ | PROT_WRITE, MAP_SHARED, p->vcpu, 0);
	if (run == MAP_FAILED)
		return err_errno(err, "map the vCPU");
	p->run = run;
	p->run_len = (size_t)len;
	int r = set_cpuid(p, err);
	return r < 0 ? r : set_long_mode(p, err);
}

static int enter(struct probe *p, const uint8_t *entry, uint64_t rcx, struct err *err)
{
	struct kvm_regs regs = {.rip = AT_CODE + (uint64_t)(entry - kvm_probe_code),
				.rcx = rcx,
				.rsp = AT_STACK,
				.rflags = 2};

	if (ioctl(p->vcpu, KVM_SET_REGS, &regs) < 0)
		return err_errno(err, "KVM_SET_REGS");
	return 0;
}

static int run_until(struct probe *p, uint16_t port, struct err *err)
{
	int r;

	do
		r = ioctl(p->vcpu, KVM_RUN, 0);
	while (r < 0 && errno == EINTR);
	if (r < 0)
		return err_errno(err, "KVM_RUN");
	if (p->run->exit_reason == KVM_EXIT_INTERNAL_ERROR)
		return err_set(err, ENOTSUP,
			       "KVM gave up on ring-0 code (internal error, suberror %u)",
			       p->run->internal.suberror);
	if (p->run->exit_reason != KVM_EXIT_IO || p->run->io.port != port)
		return err_set(err, ENOTSUP, "ring-0 code left the guest with exit reason %u",
			       p->run->exit_reason);
	return 0;
}

/* Of this thread, the guest's included: what else runs on a busy host does not count. */
static uint64_t cpu_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

/* Ever more turns, until the last run was long enough to be measured. */
static int time_loop(struct probe *p, double *per_s, struct err *err)
{
	for (uint64_t turns = 4096;; turns *= 4) {
		int r = enter(p, kvm_probe_loop, turns, err);
		const uint64_t start = cpu_us();

		if (r == 0)
			r = run_until(p, 0x80, err);
		if (r < 0)
			return r;
		uint64_t us = MAX(cpu_us() - start, (uint64_t)1);
		if (us >= ROUGH_US)
			*per_s = (double)turns * LOOP_INSNS * 1e6 / (double)us;
		if (us >= ENOUGH_US)
			return 0;
	}
}

static int time_exits(struct probe *p, double *per_s, struct err *err)
{
	int r = enter(p, kvm_probe_exits, 0, err);
	const uint64_t start = cpu_us();
	uint64_t us = 0, n = 0;

	while (r == 0 && us < ENOUGH_US) {
		for (unsigned i = 0; r == 0 && i < EXITS_FIRST; i++, n++)
			r = run_until(p, 0x81, err);
		us = cpu_us() - start;
	}
	*per_s = (double)n * 1e6 / (double)MAX(us, (uint64_t)1);
	return r;
}

int kvm_probe(struct kvm_probe *out, struct err *err)
{
	cleanup_with(probe_close) struct probe p = {.kvm = -1, .vm = -1, .vcpu = -1};
	const uint64_t start = monotonic_us();
	int r = make_vm(&p, err);

	if (r == 0)
		r = make_vcpu(&p, err);
	out->create_us = (double)(monotonic_us() - start);
	if (r == 0)
		r = enter(&p, kvm_probe_code, 0, err);
	if (r == 0)
		r = run_until(&p, 0x80, err);
	if (r == 0)
		r = time_loop(&p, &out->insn_per_s, err);
	return r < 0 ? r : time_exits(&p, &out->exits_per_s, err);
}
