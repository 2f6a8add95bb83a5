#include "runner/x86/boot.h"

#include "runner/devices/pm.h"
#include "runner/vm/vcpu.h"
#include "runner/vm/vm.h"
#include "runner/x86/acpi.h"
#include "runner/x86/cpuid.h"
#include "runner/x86/layout.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/io.h"
#include "smfs/base/num.h"

#include <asm/bootparam.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/stat.h>

#define LOADER_UNKNOWN	    0xff
#define SETUP_DATA_RNG_SEED 9 /* Linux >= 6.0 */
#define SETUP_DATA_AT	    (LAYOUT_ZERO_PAGE - 0x1000)
#define SEED_LEN	    32

_Static_assert(E820_MAX <= E820_MAX_ENTRIES_ZEROPAGE, "zero page");

static uint64_t low_ram(const struct memory *m)
{
	return m->n ? m->region[0].size : 0;
}

/* Guest memory we chose the place of; absent only if the guest is too small for it. */
static int place(struct vm *vm, uint64_t gpa, uint64_t len, void **out, struct err *err)
{
	*out = memory_at(&vm->mem, gpa, len);
	if (!*out)
		return err_set(err, EINVAL, "place %" PRIu64 " bytes at %#" PRIx64 ": no RAM there",
			       len, gpa);
	return 0;
}

static int open_file(const char *path, uint64_t *size, struct err *err)
{
	cleanup_fd int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;

	if (fd < 0)
		return err_errno(err, "open %s", path);
	if (fstat(fd, &st) < 0)
		return err_errno(err, "stat %s", path);
	if (!S_ISREG(st.st_mode))
		return err_set(err, EINVAL, "open %s: not a regular file", path);
	*size = st.st_size;
	return steal_fd(&fd);
}

static int read_into(struct vm *vm, int fd, const char *path, uint64_t off, uint64_t len,
		     uint64_t gpa, struct err *err)
{
	void *to;
	int r = place(vm, gpa, len, &to, err);

	if (r == 0 && len) {
		r = pread_full(fd, to, len, off);
		if (r < 0)
			err_set(err, -r, "read %s: %s", path, strerror(-r));
	}
	return r;
}

/* `bp` gets the setup header of a bzImage. */
static int load_kernel(struct vm *vm, const char *path, struct kernel_plan *plan,
		       struct boot_params *bp, struct err *err)
{
	uint8_t head[KERNEL_HEAD];
	uint64_t size;
	cleanup_fd int fd = open_file(path, &size, err);

	if (fd < 0)
		return fd;
	ssize_t n = pread_upto(fd, head, sizeof(head), 0);
	if (n < 0)
		return err_set(err, (int)-n, "read %s: %s", path, strerror((int)-n));
	int r = kernel_plan(head, n, size, low_ram(&vm->mem), plan, err);
	for (unsigned i = 0; r == 0 && i < plan->nsegments; i++)
		r = read_into(vm, fd, path, plan->segment[i].file_off, plan->segment[i].file_len,
			      plan->segment[i].gpa, err);
	if (r < 0)
		return err_wrap(err, r, "load kernel %s", path);
	if (plan->kind == KERNEL_BZIMAGE)
		memcpy(&bp->hdr, head + 0x1f1, plan->header_len);
	return 0;
}

/* As high as the kernel allows: away from where it unpacks itself. */
static int load_initrd(struct vm *vm, const char *path, const struct kernel_plan *plan,
		       struct boot_params *bp, struct err *err)
{
	uint64_t size, top = MIN(low_ram(&vm->mem), (uint64_t)plan->initrd_max + 1);
	char a[SIZE_STR_MAX], b[SIZE_STR_MAX];
	cleanup_fd int fd = open_file(path, &size, err);

	if (fd < 0)
		return fd;
	if (size > top || align_down(top - size, 4096) < plan->end)
		return err_set(
			err, EINVAL,
			"load initramfs %s: its %s do not fit above the kernel, below %s; give "
			"the guest more memory",
			path, format_size(size, a), format_size(top, b));
	uint64_t at = align_down(top - size, 4096);
	int r = read_into(vm, fd, path, 0, size, at, err);
	if (r < 0)
		return r;
	bp->hdr.ramdisk_image = at;
	bp->hdr.ramdisk_size = size;
	return 0;
}

static int put_cmdline(struct vm *vm, const char *cmdline, const struct kernel_plan *plan,
		       struct boot_params *bp, struct err *err)
{
	size_t len = strlen(cmdline);
	size_t max = MIN(plan->cmdline_max, LAYOUT_CMDLINE_MAX - 1);
	void *to;
	int r;

	if (len > max)
		return err_set(err, E2BIG,
			       "kernel command line of %zu bytes: this kernel takes %zu", len, max);
	r = place(vm, LAYOUT_CMDLINE, len + 1, &to, err);
	if (r < 0)
		return r;
	memcpy(to, cmdline, len + 1);
	bp->hdr.cmd_line_ptr = LAYOUT_CMDLINE;
	bp->hdr.cmdline_size = len;
	return 0;
}

/* Entropy for the guest's first moments, before any driver. The kernel wipes it after use. */
static int put_seed(struct vm *vm, struct boot_params *bp, struct err *err)
{
	struct setup_data d = {.type = SETUP_DATA_RNG_SEED, .len = SEED_LEN};
	uint8_t seed[SEED_LEN];
	void *to;
	int r = place(vm, SETUP_DATA_AT, sizeof(d) + SEED_LEN, &to, err);

	if (r < 0)
		return r;
	if (getrandom(seed, sizeof(seed), 0) != sizeof(seed))
		return err_errno(err, "get random bytes");
	memcpy(to, &d, sizeof(d));
	memcpy((uint8_t *)to + sizeof(d), seed, sizeof(seed));
	bp->hdr.setup_data = SETUP_DATA_AT;
	return 0;
}

static int put_boot_params(struct vm *vm, struct boot_params *bp, struct err *err)
{
	struct e820_range map[E820_MAX];
	unsigned n = boot_e820(&vm->mem, map);
	uint64_t rsdp = 0;
	void *to;
	int r = acpi_write(vm, &rsdp, err);

	for (unsigned i = 0; i < n; i++)
		bp->e820_table[i] =
			(struct boot_e820_entry){map[i].start, map[i].size, map[i].type};
	bp->e820_entries = n;
	bp->hdr.type_of_loader = LOADER_UNKNOWN;
	bp->hdr.boot_flag = 0xaa55;
	bp->hdr.header = 0x53726448;
	bp->acpi_rsdp_addr = rsdp;
	if (r == 0)
		r = place(vm, LAYOUT_ZERO_PAGE, sizeof(*bp), &to, err);
	if (r == 0)
		memcpy(to, bp, sizeof(*bp));
	return r;
}

/*
 * All there is of firmware: restarting is asking for a reset. With hardware-reduced ACPI Linux
 * reboots through EFI, and without that through real mode and the reset vector.
 */
static int put_reset_vector(struct vm *vm, struct err *err)
{
	static const uint8_t code[] = {
		0xba,
		(LAYOUT_PM_PORT + PM_RESET) & 0xff,
		(LAYOUT_PM_PORT + PM_RESET) >> 8,
		0xb0,
		PM_RESET_VALUE,
		0xee,
		0xf4,
		0xeb,
		0xfd,
	}; /* mov dx, port; mov al, value; out dx, al; 1: hlt; jmp 1b */
	void *to;
	int r = place(vm, LAYOUT_RESET_VECTOR, sizeof(code), &to, err);

	if (r == 0)
		memcpy(to, code, sizeof(code));
	return r;
}

/* ---- the first vCPU ---- */

#define PTE_TABLE (1 | 2 | 4) /* present, writable, user */
#define PTE_LARGE (PTE_TABLE | 0x80)

static int put_page_tables(struct vm *vm, struct err *err)
{
	void *p;
	int r = place(vm, LAYOUT_PML4, LAYOUT_PD + 4 * 4096 - LAYOUT_PML4, &p, err);

	if (r < 0)
		return r;
	uint64_t *pml4 = p, *pdpt = pml4 + 512, *pd = pdpt + 512;
	pml4[0] = LAYOUT_PDPT | PTE_TABLE;
	for (uint64_t i = 0; i < 4; i++)
		pdpt[i] = (LAYOUT_PD + i * 4096) | PTE_TABLE;
	for (uint64_t i = 0; i < 4 * 512; i++)
		pd[i] = i << 21 | PTE_LARGE;
	return 0;
}

enum { SEL_CODE = 0x10, SEL_DATA = 0x18, SEL_USER_DATA = 0x20, SEL_USER_CODE = 0x28 };

static struct kvm_segment flat(uint16_t selector, bool code, uint8_t dpl)
{
	return (struct kvm_segment){
		.limit = 0xffffffff,
		.selector = selector | dpl,
		.type = code ? 0xb : 0x3, /* read and accessed, execute or write */
		.present = 1,
		.dpl = dpl,
		.db = !code,
		.s = 1,
		.l = code,
		.g = 1,
	};
}

/* The descriptor a segment register was loaded from (Intel SDM vol. 3, 3.4.5); base 0. */
static uint64_t descriptor(const struct kvm_segment *s)
{
	uint64_t limit = s->limit >> 12;
	uint64_t access = s->type | s->s << 4 | s->dpl << 5 | s->present << 7;
	uint64_t flags = s->avl | s->l << 1 | s->db << 2 | s->g << 3;

	return (limit & 0xffff) | access << 40 | (limit >> 16 & 0xf) << 48 | flags << 52;
}

static int put_gdt(struct vm *vm, struct err *err)
{
	const struct kvm_segment seg[] = {
		flat(SEL_CODE, true, 0),
		flat(SEL_DATA, false, 0),
		flat(SEL_USER_DATA, false, 3),
		flat(SEL_USER_CODE, true, 3),
	};
	void *p;
	int r = place(vm, LAYOUT_GDT, SEL_USER_CODE + 8, &p, err);

	if (r < 0)
		return r;
	uint64_t *gdt = p;
	for (size_t i = 0; i < ARRAY_SIZE(seg); i++)
		gdt[seg[i].selector >> 3] = descriptor(&seg[i]);
	return 0;
}

#define CR0_PE	   (1u << 0)
#define CR0_ET	   (1u << 4)
#define CR0_NE	   (1u << 5)
#define CR0_PG	   (1u << 31)
#define CR4_PAE	   (1u << 5)
#define EFER_LME   (1u << 8)
#define EFER_LMA   (1u << 10)
#define RFLAGS_ONE (1u << 1)

static int set_first_registers(struct vcpu *c, uint64_t entry, struct err *err)
{
	struct kvm_regs regs = {
		.rip = entry,
		.rsi = LAYOUT_ZERO_PAGE,
		.rsp = LAYOUT_STACK_TOP,
		.rflags = RFLAGS_ONE,
	};
	struct kvm_sregs s;

	if (ioctl(c->fd, KVM_GET_SREGS, &s) < 0)
		return err_errno(err, "vCPU 0: KVM_GET_SREGS");
	s.cs = flat(SEL_CODE, true, 0);
	s.ds = s.es = s.ss = s.fs = s.gs = flat(SEL_DATA, false, 0);
	s.gdt = (struct kvm_dtable){.base = LAYOUT_GDT, .limit = SEL_USER_CODE + 7};
	s.cr3 = LAYOUT_PML4;
	s.cr4 = CR4_PAE;
	s.cr0 = CR0_PE | CR0_ET | CR0_NE | CR0_PG;
	s.efer = EFER_LME | EFER_LMA;
	if (ioctl(c->fd, KVM_SET_SREGS, &s) < 0)
		return err_errno(err, "vCPU 0: KVM_SET_SREGS");
	if (ioctl(c->fd, KVM_SET_REGS, &regs) < 0)
		return err_errno(err, "vCPU 0: KVM_SET_REGS");
	return 0;
}

/* What firmware leaves behind: memory cacheable by default (MTRR), fast string operations on. */
static int set_firmware_msrs(struct vcpu *c, struct err *err)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry[2];
	} m = {
		.head.nmsrs = 2,
		.entry = {{.index = 0x2ff, .data = 1u << 11 | 6}, {.index = 0x1a0, .data = 1}},
	};
	int n = ioctl(c->fd, KVM_SET_MSRS, &m);

	if (n < 0)
		return err_errno(err, "vCPU %u: KVM_SET_MSRS", c->index);
	if (n != (int)m.head.nmsrs)
		return err_set(err, EIO, "vCPU %u: KVM_SET_MSRS: KVM refuses MSR %#x", c->index,
			       m.entry[n].index);
	return 0;
}

/*
 * Firmware also leaves all of the XSAVE area enabled. It must be KVM that is told, before the guest
 * enables it itself: below QEMU's TCG the guest's XSETBV goes by unnoticed, and KVM would go on
 * loading the value of reset, under which SSE registers are lost at every context switch.
 */
static int set_firmware_xcr0(struct vcpu *c, struct err *err)
{
	struct kvm_xcrs xcrs = {.nr_xcrs = 1};
	cleanup_free struct vcpu_cpuid *t = calloc(1, sizeof(*t));

	if (!t)
		return err_set(err, ENOMEM, "vCPU %u: out of memory", c->index);
	t->n = VCPU_CPUID_MAX;
	if (ioctl(c->fd, KVM_GET_CPUID2, t) < 0)
		return err_errno(err, "vCPU %u: KVM_GET_CPUID2", c->index);
	const struct kvm_cpuid_entry2 *e = cpuid_find(t, 0xd, 0);
	if (!e || !(e->eax & 1))
		return 0; /* a CPU without XSAVE */
	xcrs.xcrs[0].value = (uint64_t)e->edx << 32 | e->eax;
	if (ioctl(c->fd, KVM_SET_XCRS, &xcrs) < 0)
		return err_errno(err, "vCPU %u: KVM_SET_XCRS %#llx", c->index, xcrs.xcrs[0].value);
	return 0;
}

int boot_load(struct vm *vm, const struct boot_config *cfg, struct err *err)
{
	struct boot_params bp = {0};
	struct kernel_plan plan;
	int r = load_kernel(vm, cfg->kernel, &plan, &bp, err);

	if (r == 0 && cfg->initrd)
		r = load_initrd(vm, cfg->initrd, &plan, &bp, err);
	if (r == 0)
		r = put_cmdline(vm, cfg->cmdline ? cfg->cmdline : "", &plan, &bp, err);
	if (r == 0)
		r = put_seed(vm, &bp, err);
	if (r == 0)
		r = put_boot_params(vm, &bp, err);
	if (r == 0)
		r = put_reset_vector(vm, err);
	if (r == 0)
		r = put_page_tables(vm, err);
	if (r == 0)
		r = put_gdt(vm, err);
	for (unsigned i = 0; r == 0 && i < vm->nvcpus; i++)
		r = set_firmware_msrs(vm->vcpu[i], err);
	for (unsigned i = 0; r == 0 && i < vm->nvcpus; i++)
		r = set_firmware_xcr0(vm->vcpu[i], err);
	return r < 0 ? r : set_first_registers(vm->vcpu[0], plan.entry, err);
}
