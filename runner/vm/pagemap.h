/*
 * pagemap.h - PAGEMAP_SCAN (Linux 6.7), for headers older than it: which pages of a mapping are of
 * which kind, answered in runs. See Documentation/admin-guide/mm/pagemap.rst.
 */
#ifndef RUNNER_VM_PAGEMAP_H
#define RUNNER_VM_PAGEMAP_H

#include <linux/fs.h>
#include <linux/types.h>
#include <sys/ioctl.h>

#ifndef PAGEMAP_SCAN

#define PAGEMAP_SCAN	_IOWR('f', 16, struct pm_scan_arg)
#define PAGE_IS_FILE	(1 << 2)
#define PAGE_IS_PRESENT (1 << 3)
#define PAGE_IS_SWAPPED (1 << 4)

struct page_region {
	__u64 start, end, categories;
};

struct pm_scan_arg {
	__u64 size, flags;
	__u64 start, end, walk_end;
	__u64 vec, vec_len, max_pages;
	__u64 category_inverted, category_mask, category_anyof_mask, return_mask;
};

#endif

#endif
