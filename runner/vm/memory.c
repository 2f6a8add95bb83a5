#include "runner/vm/memory.h"

#include "smfs/base/num.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define PAGE 4096ull

int memory_layout(struct memory *m, uint64_t ram_bytes, struct err *err)
{
	uint64_t low = MIN(ram_bytes, MEMORY_HOLE_START);
	char a[SIZE_STR_MAX], b[SIZE_STR_MAX], c[SIZE_STR_MAX];

	*m = (struct memory){0};
	if (ram_bytes < MEMORY_RAM_MIN || ram_bytes > MEMORY_RAM_MAX)
		return err_set(err, EINVAL, "guest memory of %s: must be from %s to %s",
			       format_size(ram_bytes, a), format_size(MEMORY_RAM_MIN, b),
			       format_size(MEMORY_RAM_MAX, c));
	if (ram_bytes % PAGE)
		return err_set(err, EINVAL, "guest memory of %" PRIu64 " bytes: not whole pages",
			       ram_bytes);
	m->region[m->n++] = (struct memory_region){.kind = MEMORY_RAM, .gpa = 0, .size = low};
	if (ram_bytes > low)
		m->region[m->n++] = (struct memory_region){.kind = MEMORY_RAM,
							   .gpa = MEMORY_HOLE_END,
							   .size = ram_bytes - low,
							   .file_off = low};
	return 0;
}

int memory_map_anon(struct memory *m, struct err *err)
{
	char size[SIZE_STR_MAX];

	for (unsigned i = 0; i < m->n; i++) {
		struct memory_region *r = &m->region[i];

		if (r->kind != MEMORY_RAM)
			continue;
		void *p = mmap(NULL, r->size, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (p == MAP_FAILED)
			return err_errno(err, "map %s of guest memory", format_size(r->size, size));
		/* Refused by a kernel without them, which has small ones. */
		(void)madvise(p, r->size, MADV_HUGEPAGE);
		r->hva = p;
	}
	return 0;
}

int memory_check_file(const struct memory *m, int fd, const char *path, struct err *err)
{
	uint64_t want = memory_ram_bytes(m);
	struct stat st;

	if (fstat(fd, &st) < 0)
		return err_errno(err, "stat %s", path);
	if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size != want)
		return err_set(err, EBADMSG,
			       "map %s as guest memory: it has %" PRIu64 " bytes, and the snapshot "
			       "says %" PRIu64,
			       path, (uint64_t)st.st_size, want);
	return 0;
}

static int map_file(struct memory *m, int fd, const char *path, int flags, struct err *err)
{
	int ret = memory_check_file(m, fd, path, err);

	if (ret < 0)
		return ret;
	for (unsigned i = 0; i < m->n; i++) {
		struct memory_region *r = &m->region[i];

		if (r->kind != MEMORY_RAM)
			continue;
		void *p = mmap(r->hva, r->size, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_NORESERVE | flags, fd, (off_t)r->file_off);
		if (p == MAP_FAILED)
			return err_errno(err, "map %s", path);
		r->hva = p;
	}
	return 0;
}

int memory_map_file(struct memory *m, int fd, const char *path, struct err *err)
{
	return map_file(m, fd, path, 0, err);
}

int memory_remap_file(struct memory *m, int fd, const char *path, struct err *err)
{
	return map_file(m, fd, path, MAP_FIXED, err);
}

int memory_inherit(struct memory *m, struct memory *from, struct err *err)
{
	for (unsigned i = 0; i < from->n; i++) {
		struct memory_region *r = &from->region[i];

		if (r->kind != MEMORY_RAM)
			munmap(r->hva, r->size);
		else if (i >= m->n || m->region[i].gpa != r->gpa || m->region[i].size != r->size)
			return err_set(err, EINVAL, "inherit memory: region %u is not where it was",
				       i);
		else
			m->region[i].hva = r->hva;
		if (r->kind == MEMORY_RAM)
			(void)madvise(r->hva, r->size, MADV_NOHUGEPAGE);
	}
	from->n = 0;
	return 0;
}

int memory_add(struct memory *m, const struct memory_region *r, struct err *err)
{
	uint64_t end;

	if (m->n == MEMORY_MAX_REGIONS)
		return err_set(err, ENOSPC, "add memory at %#" PRIx64 ": all %u regions are in use",
			       r->gpa, MEMORY_MAX_REGIONS);
	if (!r->size || r->gpa % PAGE || r->size % PAGE || !r->hva ||
	    add_overflow_u64(r->gpa, r->size, &end))
		return err_set(err, EINVAL,
			       "add memory at %#" PRIx64 "+%#" PRIx64 ": not whole mapped pages",
			       r->gpa, r->size);
	for (unsigned i = 0; i < m->n; i++) {
		const struct memory_region *o = &m->region[i];

		if (r->gpa < o->gpa + o->size && o->gpa < end)
			return err_set(err, EEXIST,
				       "add memory at %#" PRIx64 "+%#" PRIx64
				       ": overlaps the region at %#" PRIx64,
				       r->gpa, r->size, o->gpa);
	}
	m->region[m->n++] = *r;
	return 0;
}

void memory_defer(struct memory *m, const uint64_t used[MEMORY_MAX_REGIONS])
{
	for (unsigned i = 0; i < m->n; i++) {
		struct memory_region *r = &m->region[i];
		uint64_t now = align_up(MIN(used[i], r->size), MEMORY_LATER_STEP);

		if (r->kind != MEMORY_RAM || r->size <= now || r->size - now < MEMORY_LATER_MIN)
			continue;
		r->later = true;
		r->later_from = now;
	}
}

bool memory_has_later(const struct memory *m)
{
	for (unsigned i = 0; i < m->n; i++)
		if (m->region[i].later)
			return true;
	return false;
}

/* The part [from, to) of region `r` as a slot. */
static int set_slot(const struct memory_region *r, unsigned slot, uint64_t from, uint64_t to,
		    int vm_fd, struct err *err)
{
	struct kvm_userspace_memory_region s = {
		.slot = slot,
		.flags = r->readonly ? KVM_MEM_READONLY : 0,
		.guest_phys_addr = r->gpa + from,
		.memory_size = to - from,
		.userspace_addr = (uintptr_t)r->hva + from,
	};

	if (ioctl(vm_fd, KVM_SET_USER_MEMORY_REGION, &s) < 0)
		return err_errno(err, "KVM_SET_USER_MEMORY_REGION %#" PRIx64 "+%#" PRIx64,
				 r->gpa + from, to - from);
	return 0;
}

int memory_set_slots(const struct memory *m, int vm_fd, struct err *err)
{
	int ret = 0;

	for (unsigned i = 0; ret == 0 && i < m->n; i++) {
		const struct memory_region *r = &m->region[i];

		if (!r->later || r->later_from)
			ret = set_slot(r, i, 0, r->later ? r->later_from : r->size, vm_fd, err);
	}
	return ret;
}

int memory_set_later(const struct memory *m, int vm_fd, struct err *err)
{
	int ret = 0;

	for (unsigned i = 0; ret == 0 && i < m->n; i++) {
		const struct memory_region *r = &m->region[i];

		if (r->later)
			ret = set_slot(r, MEMORY_MAX_REGIONS + i, r->later_from, r->size, vm_fd,
				       err);
	}
	return ret;
}

void memory_free(struct memory *m)
{
	for (unsigned i = 0; i < m->n; i++)
		if (m->region[i].hva)
			munmap(m->region[i].hva, m->region[i].size);
	*m = (struct memory){0};
}

void *memory_at(const struct memory *m, uint64_t gpa, uint64_t len)
{
	for (unsigned i = 0; i < m->n; i++) {
		const struct memory_region *r = &m->region[i];

		if (r->kind != MEMORY_RAM || r->readonly || !r->hva || gpa < r->gpa)
			continue;
		if (range_ok(gpa - r->gpa, len, r->size))
			return r->hva + (gpa - r->gpa);
	}
	return NULL;
}

uint64_t memory_ram_bytes(const struct memory *m)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < m->n; i++)
		if (m->region[i].kind == MEMORY_RAM)
			sum += m->region[i].size;
	return sum;
}
