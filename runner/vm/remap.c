/*
 * Other RAM under the same memory slots.
 *
 * An mmap(2) over RAM takes every page out of the guest's page tables, giving up what was written
 * (rewind.c) those pages: the kernel tells KVM so. That is not enough where KVM shadows page tables.
 * Its shadow of a guest's table stays, linked into the tree as the old table was, while the bytes it
 * was made from are now others; nothing tells KVM that they changed without a write of the guest. So
 * it must drop all its page tables, which it does whenever any memory slot is deleted: a spare one
 * of a single page is made and deleted. (Where that is no longer so of every slot, it is a mode to
 * be asked for: KVM_X86_QUIRK_SLOT_ZAP_ALL.)
 */
#include "runner/vm/vm.h"

#include <errno.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "smfs/base/log.h"

/* Above memory_set_slots()'s and memory_set_later()'s. */
#define SPARE_SLOT (2 * MEMORY_MAX_REGIONS)

static int set_spare(struct vm *vm, uint64_t bytes, struct err *err)
{
	struct kvm_userspace_memory_region s = {.slot = SPARE_SLOT,
						.guest_phys_addr = VM_SPARE_GPA,
						.memory_size = bytes,
						.userspace_addr = (uintptr_t)vm->spare_page};

	if (ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &s) < 0)
		return err_errno(err, "%s the spare memory slot", bytes ? "set" : "delete");
	return 0;
}

/* The guest may see the page for an instant: it is one of its own, empty, and read-only to none. */
static int drop_page_tables(struct vm *vm, struct err *err)
{
	int r;

	if (!vm->spare_page) {
		void *p = mmap(NULL, VM_SPARE_BYTES, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (p == MAP_FAILED)
			return err_errno(err, "map a spare page");
		vm->spare_page = p;
	}
	r = set_spare(vm, VM_SPARE_BYTES, err);
	return r < 0 ? r : set_spare(vm, 0, err);
}

int vm_prime_remap(struct vm *vm, struct err *err)
{
	return drop_page_tables(vm, err);
}

/* Whether it is done. */
static bool rewind_ram(struct vm *vm, int ram_fd, const char *path, uint64_t *bytes)
{
	struct err why = ERR_INIT;
	const int r = memory_rewind(&vm->mem, ram_fd, path, bytes, &why);

	if (r == 0)
		return true;
	*bytes = 0;
	if (r == -ENOTSUP && vm->rewinds_refused++ == 0)
		log_warn("reset: %s; all of RAM is mapped anew each time, which takes longer",
			 why.msg);
	return false;
}

int vm_remap_ram(struct vm *vm, int ram_fd, const char *path, bool same, uint64_t *rewound,
		 struct err *err)
{
	int r = 0;

	*rewound = 0;

	if (!vm->paused)
		return err_set(err, EBUSY, "remap RAM: the VM is not paused");
	pthread_mutex_lock(&vm->dev_lock);
	if (!same || !rewind_ram(vm, ram_fd, path, rewound))
		r = memory_remap_file(&vm->mem, ram_fd, path, err);
	pthread_mutex_unlock(&vm->dev_lock);
	if (r == 0)
		r = drop_page_tables(vm, err);
	atomic_store(&vm->guest_ran_us, 0);
	atomic_store(&vm->guest_ran, false);
	return r;
}
