/*
 * RAM that is mapped from a snapshot's `ram` becomes that snapshot's again.
 *
 * In a private mapping of a file what has been written, by the guest, by devices, by the kernel on
 * behalf of either, are the process's own pages, and no others are (swapped ones are still its
 * own). Given up, the file's show in their places, holes of it as zeros. An mmap(2) over RAM does
 * the same to all pages, and has KVM, where it shadows page tables, look for each page of the
 * memory slot: 0.3 ms per GiB, touched or not.
 *
 * What is clean, and so the file's, may be given up, too: runs that are close to each other are
 * one.
 */
#include "runner/vm/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "runner/vm/pagemap.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/num.h"

#define PAGE 4096u
/* A system call that finds nothing to do takes as long as some pages take to be mapped again. */
#define NEAR (16u * PAGE)
/* With more there is nothing to win: every run is a call, and KVM is told of each. */
#define RUNS_MAX  1024u
#define SCAN_RUNS 1024u

struct runs {
	struct page_region run[RUNS_MAX];
	unsigned n;
	struct page_region scan[SCAN_RUNS];
};

/* `first`: the region's first run; what lies between two regions is nobody's to give up. */
static int add_run(struct runs *rs, unsigned first, uint64_t start, uint64_t end)
{
	struct page_region *last = rs->n > first ? &rs->run[rs->n - 1] : NULL;

	/* A scan that goes on where the last one says it ended may tell its last runs again. */
	if (last && end <= last->end)
		return 0;
	if (last && start <= last->end + NEAR) {
		last->end = end;
		return 0;
	}
	if (rs->n == RUNS_MAX)
		return -E2BIG;
	rs->run[rs->n++] = (struct page_region){.start = start, .end = end};
	return 0;
}

/* The process's own pages of one region of RAM. */
static int scan(int fd, const struct memory_region *r, struct runs *rs, struct err *err)
{
	const uint64_t end = (uintptr_t)r->hva + r->size;
	struct pm_scan_arg a = {.size = sizeof(a),
				.start = (uintptr_t)r->hva,
				.end = end,
				.vec = (uintptr_t)rs->scan,
				.vec_len = SCAN_RUNS,
				.category_inverted = PAGE_IS_FILE,
				.category_mask = PAGE_IS_FILE,
				.category_anyof_mask = PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
				.return_mask = PAGE_IS_FILE};

	const unsigned first = rs->n;

	while (a.start < end) {
		const int n = ioctl(fd, PAGEMAP_SCAN, &a);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_set(err, ENOTSUP, "ask the kernel which pages were written: %s",
				       strerror(errno));
		for (int i = 0; i < n; i++)
			if (add_run(rs, first, rs->scan[i].start, rs->scan[i].end) < 0)
				return err_set(err, E2BIG, "written pages in too many places");
		/* It says where it has come to; no further would be for ever. */
		if (a.walk_end <= a.start || a.walk_end > end)
			return err_set(err, ENOTSUP, "PAGEMAP_SCAN makes no headway");
		a.start = a.walk_end;
	}
	return 0;
}

static int drop(const struct runs *rs, uint64_t *bytes, struct err *err)
{
	for (unsigned i = 0; i < rs->n; i++) {
		const struct page_region *p = &rs->run[i];

		if (madvise((void *)(uintptr_t)p->start, p->end - p->start, MADV_DONTNEED) < 0)
			return err_errno(err, "give up %#llx bytes of guest memory",
					 (unsigned long long)(p->end - p->start));
		*bytes += p->end - p->start;
	}
	return 0;
}

int memory_rewind(struct memory *m, int ram_fd, const char *path, uint64_t *bytes, struct err *err)
{
	cleanup_free struct runs *rs = malloc(sizeof(*rs));
	cleanup_fd int fd = -1;
	int r = memory_check_file(m, ram_fd, path, err);

	*bytes = 0;
	if (r < 0)
		return r;
	/* Of this process as it is now: one that was inherited by fork(2) would be the parent's. */
	fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return err_set(err, ENOTSUP, "open /proc/self/pagemap: %s", strerror(errno));
	if (!rs)
		return err_set(err, ENOMEM, "rewind RAM: out of memory");
	rs->n = 0;
	for (unsigned i = 0; r == 0 && i < m->n; i++)
		if (m->region[i].kind == MEMORY_RAM)
			r = scan(fd, &m->region[i], rs, err);
	return r < 0 ? r : drop(rs, bytes, err);
}
