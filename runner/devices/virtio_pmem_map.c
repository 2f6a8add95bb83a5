/* virtio_pmem_map.c - a file behind RAM as a read-only memory region. See virtio_pmem.h. */
#include "runner/devices/virtio_pmem.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "smfs/base/num.h"

/* Where the next region goes: behind everything there is, and behind the 32-bit hole. */
static int next_place(const struct memory *m, uint64_t *gpa)
{
	uint64_t end = MEMORY_HOLE_END;

	for (unsigned i = 0; i < m->n; i++) {
		uint64_t e;

		if (add_overflow_u64(m->region[i].gpa, m->region[i].size, &e))
			return -EOVERFLOW;
		end = MAX(end, e);
	}
	if (end > UINT64_MAX - VIRTIO_PMEM_GAP)
		return -EOVERFLOW;
	*gpa = align_up(end, VIRTIO_PMEM_GAP);
	return 0;
}

/*
 * A window of `size` bytes, aligned to VM_PMEM_ALIGN so that KVM can use 2 MiB entries where the
 * page cache has them. The reservation is bigger by one alignment; head and tail are given back.
 */
static uint8_t *reserve(uint64_t size)
{
	uint64_t span = size + VM_PMEM_ALIGN;
	uint8_t *p =
		mmap(NULL, span, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	uint64_t head;

	if (p == MAP_FAILED)
		return NULL;
	head = align_up((uintptr_t)p, VM_PMEM_ALIGN) - (uintptr_t)p;
	if (head)
		munmap(p, head);
	if (head != VM_PMEM_ALIGN)
		munmap(p + head + size, VM_PMEM_ALIGN - head);
	return p + head;
}

int virtio_pmem_map(struct memory *m, const struct vm_pmem *p, struct err *err)
{
	struct memory_region r = {.kind = MEMORY_PMEM, .readonly = true};
	struct stat st;
	int ret;

	if (fstat(p->fd, &st) < 0)
		return err_errno(err, "%s: stat %s", p->id, p->path);
	if (!S_ISREG(st.st_mode) || st.st_size <= 0 || (uint64_t)st.st_size > VIRTIO_PMEM_MAX)
		return err_set(err, EINVAL,
			       "%s: %s cannot be persistent memory: needs a regular file of 1 byte "
			       "to 64 GiB",
			       p->id, p->path);
	if (next_place(m, &r.gpa) < 0)
		return err_set(err, EOVERFLOW, "%s: no guest addresses left for %s", p->id,
			       p->path);
	r.size = align_up((uint64_t)st.st_size, VM_PMEM_ALIGN);
	r.hva = reserve(r.size);
	if (!r.hva)
		return err_errno(err, "%s: reserve addresses for %s", p->id, p->path);
	if (mmap(r.hva, (size_t)st.st_size, PROT_READ, MAP_PRIVATE | MAP_FIXED, p->fd, 0) ==
	    MAP_FAILED) {
		ret = err_errno(err, "%s: map %s", p->id, p->path);
		munmap(r.hva, r.size);
		return ret;
	}
	ret = memory_add(m, &r, err);
	if (ret < 0) {
		munmap(r.hva, r.size);
		return err_wrap(err, ret, "%s: add %s", p->id, p->path);
	}
	return 0;
}
