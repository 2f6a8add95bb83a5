/*
 * memory.h - guest physical memory: a few regions, each one KVM memslot.
 *
 * RAM of a guest is laid out below and above the 3 GiB..4 GiB hole; `ram` of a snapshot is the
 * regions one after the other in GPA order (file_off). Other slots (pmem) are regions of their own
 * kind and never part of `ram`.
 *
 * THE GUEST IS HOSTILE: memory_at() is the only way from a guest address to a pointer. The bytes
 * behind it change under our feet; read each field once into a local (READ_ONCE style), check,
 * then use the local.
 *
 * Threads: the region table is fixed once the VM starts; lookups need no lock.
 */
#ifndef RUNNER_VM_MEMORY_H
#define RUNNER_VM_MEMORY_H

#include <stdbool.h>
#include <stdint.h>

#include "smfs/base/err.h"

#define MEMORY_HOLE_START  0xc0000000ull /* 3 GiB: MMIO, IOAPIC, LAPIC live above */
#define MEMORY_HOLE_END	   0x100000000ull
#define MEMORY_MAX_REGIONS 16
#define MEMORY_RAM_MIN	   (2ull << 20)
#define MEMORY_RAM_MAX	   (256ull << 30)

enum memory_kind { MEMORY_RAM = 1, MEMORY_PMEM = 2 };

struct memory_region {
	enum memory_kind kind;
	uint64_t gpa, size; /* page aligned */
	uint64_t file_off;  /* RAM: offset of this region in the snapshot's `ram` */
	uint8_t *hva;
	bool readonly; /* KVM_MEM_READONLY; writes exit as MMIO and are refused */
	/* RAM: KVM gets what is from `later_from` on only by memory_set_later(). */
	bool later;
	uint64_t later_from;
};

struct memory {
	struct memory_region region[MEMORY_MAX_REGIONS];
	unsigned n;
};

/* Fill in the RAM regions (1 or 2) of `ram_bytes` (page aligned), hva still NULL. */
int memory_layout(struct memory *m, uint64_t ram_bytes, struct err *err);

/*
 * Map RAM regions: anonymous (MAP_NORESERVE), for a cold boot.
 *
 * HUGE PAGES. Where the host gives them on request, this memory is of 2 MiB pages. Measured with a
 * guest that has written 256 MiB: 131 faults instead of 65,543, and fork(2), which is what a live
 * snapshot or a fork pauses it for, takes 0.5 ms instead of 69 the first time. What it writes
 * afterwards is split and copied in pages of 4 KiB: a later fork takes 1 to 40 ms, 28 to 67
 * without. A guest that has touched little takes up to 2 MiB for each place it touched. Children
 * are not given any (memory_inherit()): an idle one would otherwise be made 2 MiB of its own, in
 * time, for each page it has written. A restored machine has none to be given: copies of a file's
 * pages are small ones.
 */
int memory_map_anon(struct memory *m, struct err *err);

/*
 * Map RAM regions MAP_PRIVATE from a snapshot's `ram`. The file's length is checked against the
 * regions first (a short file would be SIGBUS later): EBADMSG.
 */
int memory_map_file(struct memory *m, int fd, const char *path, struct err *err);
/* That check alone. */
int memory_check_file(const struct memory *m, int fd, const char *path, struct err *err);
/*
 * The same over RAM that is mapped, at the same addresses: slots stay as they are. After a failure
 * the RAM may be in part the old and in part the new.
 */
int memory_remap_file(struct memory *m, int fd, const char *path, struct err *err);
/*
 * The same of RAM that is mapped from that very file, by giving up what has been written since (see
 * rewind.c): *bytes of it, with some that was not. ENOTSUP where the kernel cannot tell what has
 * been; E2BIG when it is in so many places that memory_remap_file() takes less. After any failure
 * that is what is left to do.
 */
int memory_rewind(struct memory *m, int fd, const char *path, uint64_t *bytes, struct err *err);

/*
 * In a forked copy of a VM's process: the RAM of `from`, which fork(2) made copy-on-write, becomes
 * m's (whose layout is the same: memory_layout()). What else `from` maps is unmapped. Pages that
 * are huge stay so until they are written; no others become it.
 */
int memory_inherit(struct memory *m, struct memory *from, struct err *err);

/* Add a mapped region that is not RAM; takes over the mapping. */
int memory_add(struct memory *m, const struct memory_region *r, struct err *err);

/*
 * LATER. Where KVM shadows page tables, a slot costs 0.45 us per MiB when it is set (10 bytes of
 * bookkeeping per page): 1.8 ms for 4 GiB, more than the rest of a restore. So a restored machine
 * may start with slots over the RAM its snapshot has data in, and get the rest while it runs; the
 * cost of a start is then that of the RAM used. memory_defer() decides: `used[i]` is where the data
 * of RAM region i ends. Until memory_set_later() has returned, an access to the rest leaves
 * KVM as MMIO, and the vCPU waits (vcpu.c). What KVM cannot emulate as MMIO from ring 3 (vector
 * instructions on memory that nothing has ever touched, within that millisecond) would fail in
 * the guest; Linux clears a page before it gives it to anyone, and its RAM is in use to the top.
 */
#define MEMORY_LATER_STEP (32ull << 20) /* what is set at once ends on a multiple of this */
#define MEMORY_LATER_MIN  (64ull << 20) /* less is not worth a slot of its own */
void memory_defer(struct memory *m, const uint64_t used[MEMORY_MAX_REGIONS]);
bool memory_has_later(const struct memory *m);
int memory_set_later(const struct memory *m, int vm_fd, struct err *err);

/* KVM_SET_USER_MEMORY_REGION for all regions, slot = index, without what is for later. */
int memory_set_slots(const struct memory *m, int vm_fd, struct err *err);

/* Unmap everything. */
void memory_free(struct memory *m);

/* Pointer to [gpa, gpa+len) if it lies wholly in one writable RAM region, else NULL. */
void *memory_at(const struct memory *m, uint64_t gpa, uint64_t len);

uint64_t memory_ram_bytes(const struct memory *m);

#endif
