/*
 * vmrun.c - preloaded into QEMU: three faults of its emulation of SVM (at least up to 10.0.2) that
 * kill nested guests and now and then the kernel that runs them, mended in memory.
 *
 * HFLAGS2. The bits of env->hflags2 say that the processor is between VMRUN and the exit: nested
 * paging is on, GIF, virtual interrupts. Only its own thread may write them. But each FXRSTOR,
 * XRSTOR and FLDENV of any processor calls cpu_clear_ignne(), which clears a bit of the *first*
 * processor's hflags2 by a plain `&=`, without a lock. While the first one enters or leaves a
 * guest, it gets old bits back: a kernel that walks its page tables through the guest's; a guest
 * whose addresses are taken for the kernel's, which then writes anywhere; a guest that may never
 * take an interrupt again; interrupts before the kernel has its GS base back.
 *
 * Seen with a watch on do_vmexit(): 0x14b before, 0x40 after, the bit for nested paging left where
 * it cannot be, once in some 300,000 exits of guests with two processors; the next instruction of
 * the kernel is then taken for the guest's. With a program on the second processor that does
 * nothing but FXRSTOR, a guest on the first one never lives until its first answer; mended, it
 * does.
 *
 * The cure: cpu_clear_ignne() returns at once. It is for IGNNE#, by which MS-DOS ignores x87 errors
 * (port 0xf0).
 *
 * TWICE. To inject an external interrupt, which is how KVM delivers them, helper_vmrun() sets the
 * CPU's exception_index to the vector and delivers it, but leaves exception_index set. Whatever
 * then asks the CPU thread out of its loop (exit_request) before the guest's next exit or exception
 * makes the loop take that for an exception that waits: the vector is delivered again, without a
 * look at the guest's IF. At the handler's first instruction that is an entry "from kernel mode"
 * with the user's GS: the guest triple faults or hangs.
 *
 * Seen by counting in a stock QEMU 10.0.2: no vector came twice in 60,000 injections left alone,
 * for all exit requests then come with an interrupt, which resets exception_index first. With one a
 * processor each 4 ms that came alone, seven did within a second, two of them at the handler's
 * first instruction, and the guest, never paused by anyone, was dead. Mended, the same guest worked
 * on.
 *
 * LOST. If KVM also wants to know when the guest can take another interrupt, helper_vmrun() sets a
 * bit of interrupt_request by a plain `|=`. Other threads set theirs under the big lock, which this
 * one does not hold: theirs may be lost, and a processor sleeps on that should have woken. The
 * exit_request that came with a lost bit remains, alone, which is what TWICE takes. This is read in
 * the source; the moment is too short to have been caught.
 *
 * The cure for TWICE is what helper_vmrun() does for all other kinds of event: leave it by longjmp
 * into the CPU loop, here by cpu_loop_exit_noexc(), which resets exception_index. The guest's state
 * is complete by then, and VMRUN ends its block of translated code anyway. The cure for LOST is to
 * hold the lock; the CPU loop drops it for a helper that leaves by longjmp itself.
 *
 * All names used are QEMU's own, exported for its modules; the first member of the helper's
 * descriptor is the function that generated code calls. In any other program (the shell before
 * QEMU, too) this does nothing; a QEMU without those names is left alone and says so.
 */
#include <dlfcn.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

typedef void vmrun_fn(void *env, int aflag, int next_eip_addend);

static struct {
	vmrun_fn *vmrun;
	void (*lock)(const char *file, int line);
	void (*unlock)(void);
	void (*loop_exit)(void *cpu);
} qemu;

static void vmrun_mended(void *env, int aflag, int next_eip_addend)
{
	/* Thread-local in QEMU; its address stays the same for a thread. */
	static __thread void **current_cpu;

	if (!current_cpu)
		current_cpu = dlsym(RTLD_DEFAULT, "current_cpu");
	qemu.lock(__FILE__, __LINE__);
	qemu.vmrun(env, aflag, next_eip_addend);
	qemu.unlock();
	qemu.loop_exit(*current_cpu);
}

/* Let a function of the executable that takes and gives nothing do nothing. */
static int make_empty(void *function)
{
	const unsigned char ret = 0xc3;
	uintptr_t size = (uintptr_t)sysconf(_SC_PAGESIZE);
	void *page = (void *)((uintptr_t)function & ~(size - 1));

	if (mprotect(page, size, PROT_READ | PROT_WRITE) < 0)
		return -1;
	memcpy(function, &ret, 1);
	return mprotect(page, size, PROT_READ | PROT_EXEC);
}

static void *name(const char *symbol, int *missing)
{
	void *p = dlsym(RTLD_DEFAULT, symbol);

	if (!p)
		++*missing;
	return p;
}

__attribute__((constructor)) static void mend(void)
{
	int missing = 0;

	if (strncmp(program_invocation_short_name, "qemu-system", 11) != 0)
		return;
	void **info = name("helper_info_vmrun", &missing);
	qemu.vmrun = (vmrun_fn *)name("helper_vmrun", &missing);
	qemu.lock = (void (*)(const char *, int))name("bql_lock_impl", &missing);
	qemu.unlock = (void (*)(void))name("bql_unlock", &missing);
	qemu.loop_exit = (void (*)(void *))name("cpu_loop_exit_noexc", &missing);
	name("current_cpu", &missing);
	void *clear_ignne = name("cpu_clear_ignne", &missing);
	if (missing || *info != (void *)qemu.vmrun || make_empty(clear_ignne) < 0) {
		fprintf(stderr, "vmrun: this QEMU exports too little to mend its VMRUN: "
				"expect nested guests to fail now and then\n");
		return;
	}
	*info = (void *)vmrun_mended;
}
