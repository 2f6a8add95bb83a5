/* ram_file.c - sparse RAM by pagemap and SEEK_DATA. */
#include "runner/snapshot/ram_file.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "smfs/base/cleanup.h"
#include "smfs/base/io.h"
#include "smfs/base/num.h"

#define PAGE 4096u
/* Documentation/admin-guide/mm/pagemap.rst. Bit 61: a file's page, not one of our own. */
#define PM_PRESENT (1ull << 63)
#define PM_SWAPPED (1ull << 62)
#define PM_FILE	   (1ull << 61)
#define PM_BATCH   4096u /* entries read at once: 16 MiB of RAM */

static void mark(struct ram_blocks *b, uint64_t off, uint64_t len)
{
	for (uint64_t i = off / RAM_BLOCK; i <= (off + len - 1) / RAM_BLOCK; i++)
		b->bits[i / 8] |= (uint8_t)(1u << (i % 8));
}

static bool marked(const struct ram_blocks *b, uint64_t block)
{
	return b->bits[block / 8] >> (block % 8) & 1;
}

struct pagemap {
	int fd;
	uint64_t *entries; /* PM_BATCH */
};

static int pagemap_open(struct pagemap *pm, struct err *err)
{
	pm->entries = malloc(PM_BATCH * sizeof(*pm->entries));
	pm->fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	if (pm->fd < 0)
		return err_errno(err, "open /proc/self/pagemap");
	return pm->entries ? 0 : err_set(err, ENOMEM, "snapshot ram: out of memory");
}

static void pagemap_close(struct pagemap *pm)
{
	if (pm->fd >= 0)
		close(pm->fd);
	free(pm->entries);
}

static enum ram_page kind_of(uint64_t e)
{
	/* In swap, or just being moved by the kernel, which a file's page may be, too. */
	if (e & PM_SWAPPED)
		return e & PM_FILE ? RAM_FILE : RAM_OWN;
	if (!(e & PM_PRESENT))
		return RAM_UNTOUCHED;
	return e & PM_FILE ? RAM_FILE : RAM_OWN;
}

/* Every run of the region, in order; runs end at batches, too. */
static int each_run(struct pagemap *pm, const struct memory_region *r, ram_run_fn fn, void *arg,
		    struct err *err)
{
	const uint64_t first = (uintptr_t)r->hva / PAGE, n = r->size / PAGE;

	for (uint64_t i = 0; i < n; i += PM_BATCH) {
		const uint64_t k = MIN(n - i, (uint64_t)PM_BATCH);
		int ret = pread_full(pm->fd, pm->entries, k * sizeof(*pm->entries),
				     (first + i) * sizeof(*pm->entries));

		if (ret < 0)
			return err_set(err, -ret, "read /proc/self/pagemap: %s", strerror(-ret));
		for (uint64_t p = 0, end; p < k; p = end) {
			const enum ram_page kind = kind_of(pm->entries[p]);

			for (end = p + 1; end < k && kind_of(pm->entries[end]) == kind; end++)
				;
			ret = fn(arg, r, (i + p) * PAGE, (end - p) * PAGE, kind, err);
			if (ret < 0)
				return ret;
		}
	}
	return 0;
}

int ram_runs_each(const struct memory *m, ram_run_fn fn, void *arg, struct err *err)
{
	struct pagemap pm;
	int ret = pagemap_open(&pm, err);

	for (unsigned i = 0; ret == 0 && i < m->n; i++)
		if (m->region[i].kind == MEMORY_RAM)
			ret = each_run(&pm, &m->region[i], fn, arg, err);
	pagemap_close(&pm);
	return ret;
}

static int mark_run(void *arg, const struct memory_region *r, uint64_t off, uint64_t len,
		    enum ram_page kind, struct err *err)
{
	if (kind == RAM_OWN)
		mark(arg, r->file_off + off, len);
	return 0;
}

static int mark_file_data(struct ram_blocks *b, int fd, struct err *err)
{
	off_t at = 0;

	while ((uint64_t)at < b->ram_bytes) {
		off_t data = lseek(fd, at, SEEK_DATA), hole;

		if (data < 0 && errno == ENXIO)
			return 0;
		if (data < 0)
			return err_errno(err, "seek data in the snapshot's ram");
		hole = lseek(fd, data, SEEK_HOLE);
		if (hole < 0)
			return err_errno(err, "seek hole in the snapshot's ram");
		if (hole <= data || (uint64_t)hole > b->ram_bytes)
			return err_set(err, EBADMSG, "the snapshot's ram changed its length");
		mark(b, (uint64_t)data, (uint64_t)(hole - data));
		at = hole;
	}
	return 0;
}

int ram_blocks_find(const struct memory *m, int ram_fd, struct ram_blocks *out, struct err *err)
{
	struct ram_blocks b = {.ram_bytes = memory_ram_bytes(m)};
	const uint64_t nblocks = (b.ram_bytes + RAM_BLOCK - 1) / RAM_BLOCK;
	int ret = 0;

	b.bits = calloc(1, nblocks / 8 + 1);
	if (!b.bits)
		ret = err_set(err, ENOMEM, "snapshot ram: out of memory");
	if (ret == 0 && ram_fd >= 0)
		ret = mark_file_data(&b, ram_fd, err);
	if (ret == 0)
		ret = ram_runs_each(m, mark_run, &b, err);
	if (ret < 0) {
		ram_blocks_free(&b);
		return ret;
	}
	for (uint64_t i = 0; i < nblocks; i++)
		if (marked(&b, i))
			b.data_bytes += MIN(b.ram_bytes - i * RAM_BLOCK, (uint64_t)RAM_BLOCK);
	*out = b;
	return 0;
}

void ram_blocks_free(struct ram_blocks *b)
{
	free(b->bits);
	b->bits = NULL;
}

uint64_t ram_blocks_used(const struct ram_blocks *b, uint64_t off, uint64_t len)
{
	for (uint64_t i = (off + len - 1) / RAM_BLOCK + 1; i-- > off / RAM_BLOCK;)
		if (marked(b, i))
			return MIN((i + 1) * RAM_BLOCK - off, len);
	return 0;
}

static int write_region(const struct memory_region *r, const struct ram_blocks *b,
			struct smfs_stream *st, struct err *err)
{
	uint64_t at = 0;

	while (at < r->size) {
		const bool data = marked(b, (r->file_off + at) / RAM_BLOCK);
		uint64_t end = at;
		int ret;

		/* A run of blocks of one kind; block borders count from the start of the file. */
		while (end < r->size && marked(b, (r->file_off + end) / RAM_BLOCK) == data)
			end = align_down(r->file_off + end + RAM_BLOCK, RAM_BLOCK) - r->file_off;
		end = MIN(end, r->size);
		ret = data ? smfs_stream_write(st, r->hva + at, end - at, err)
			   : smfs_stream_hole(st, end - at, err);
		if (ret < 0)
			return ret;
		at = end;
	}
	return 0;
}

int ram_blocks_write(const struct memory *m, const struct ram_blocks *b, struct smfs_stream *st,
		     struct err *err)
{
	for (unsigned i = 0; i < m->n; i++) {
		int ret = m->region[i].kind == MEMORY_RAM ? write_region(&m->region[i], b, st, err)
							  : 0;

		if (ret < 0)
			return ret;
	}
	return 0;
}

struct diff {
	const struct memory *mem;
	struct smfs_stream *st;
	uint64_t own_bytes, *used;
};

static int diff_run(void *arg, const struct memory_region *r, uint64_t off, uint64_t len,
		    enum ram_page kind, struct err *err)
{
	struct diff *d = arg;
	uint64_t *used = &d->used[r - d->mem->region];

	if (kind != RAM_OWN)
		return smfs_stream_same(d->st, len, err);
	d->own_bytes += len;
	*used = MAX(*used, off + len);
	return smfs_stream_write(d->st, r->hva + off, len, err);
}

int ram_diff_write(const struct memory *m, struct smfs_stream *st, uint64_t *own_bytes,
		   uint64_t used[MEMORY_MAX_REGIONS], struct err *err)
{
	struct diff d = {.mem = m, .st = st, .used = used};
	int ret = ram_runs_each(m, diff_run, &d, err);

	*own_bytes = d.own_bytes;
	return ret;
}
