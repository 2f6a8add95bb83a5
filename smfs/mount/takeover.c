#include "smfs/mount/takeover.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "smfs/base/log.h"
#include "smfs/base/num.h"
#include "smfs/store/metrics.h"

#define PAGE	     4096
#define HEADER_BYTES align_up(sizeof(struct takeover_area), PAGE)
#define NODE_BYTES   ((uint64_t)TAKEOVER_NODES * sizeof(struct takeover_node))
#define HANDLE_BYTES ((uint64_t)TAKEOVER_HANDLES * sizeof(struct takeover_handle))
#define CELL_BYTES   ((uint64_t)TAKEOVER_CELLS * sizeof(struct takeover_cell))
#define TOTAL_BYTES  (HEADER_BYTES + NODE_BYTES + HANDLE_BYTES + CELL_BYTES)

_Static_assert(sizeof(struct takeover_node) == 104, "as documented");
_Static_assert(sizeof(struct takeover_handle) == 32, "as documented");
_Static_assert(sizeof(struct takeover_cell) == 64, "as documented");

struct takeover {
	struct takeover_area *area;
	struct takeover_node *nodes;
	struct takeover_handle *handles;
	struct takeover_cell *cells; /* cell k is cells[k - 1] */
	/* Heads of the free lists: slot + 1, or 0. */
	uint64_t free_node, free_handle;
	uint32_t free_cell;
	bool told_full;
};

int takeover_create(struct err *err)
{
	int fd = memfd_create("smfs-takeover", MFD_CLOEXEC);

	if (fd < 0)
		return err_errno(err, "memfd_create");
	if (ftruncate(fd, (off_t)TOTAL_BYTES) < 0) {
		int r = err_errno(err, "size the takeover table");

		close(fd);
		return r;
	}
	return fd;
}

int takeover_map(int fd, struct takeover **out, struct err *err)
{
	int flags = MAP_NORESERVE | (fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED);
	struct takeover *t = calloc(1, sizeof(*t));
	uint8_t *p;

	if (!t)
		return err_set(err, ENOMEM, "mount: out of memory");
	if (fd >= 0 && lseek(fd, 0, SEEK_END) != (off_t)TOTAL_BYTES) {
		free(t);
		return err_set(err, EPROTO, "take over: made by another version of smfs");
	}
	p = mmap(NULL, TOTAL_BYTES, PROT_READ | PROT_WRITE, flags, fd, 0);
	if (p == MAP_FAILED) {
		free(t);
		return err_errno(err, "map the takeover table");
	}
	t->area = (struct takeover_area *)p;
	t->nodes = (struct takeover_node *)(p + HEADER_BYTES);
	t->handles = (struct takeover_handle *)(p + HEADER_BYTES + NODE_BYTES);
	t->cells = (struct takeover_cell *)(p + HEADER_BYTES + NODE_BYTES + HANDLE_BYTES);
	struct takeover_area *a = t->area;
	if (a->version == 0) {
		a->version = TAKEOVER_VERSION;
		a->size_check = sizeof(*a);
	}
	if (a->version != TAKEOVER_VERSION || a->size_check != sizeof(*a)) {
		takeover_unmap(t);
		return err_set(err, EPROTO, "take over: made by another version of smfs");
	}
	*out = t;
	return 0;
}

void takeover_unmap(struct takeover *t)
{
	if (!t)
		return;
	munmap(t->area, TOTAL_BYTES);
	free(t);
}

struct takeover_area *takeover_area(struct takeover *t)
{
	return t->area;
}

void takeover_stats(struct takeover *t, FILE *f)
{
	const struct takeover_area *a = t->area;
	const struct metric v[] = {
		{"servers", "Servers started for this mount.", atomic_load(&a->servers), true},
		{"takeover_inodes", "Inodes written down for the next server.",
		 atomic_load(&a->nodes), false},
		{"takeover_open_files", "Open files written down.", atomic_load(&a->handles),
		 false},
		{"takeover_bytes", "Memory of the table, which only grows.",
		 HEADER_BYTES + atomic_load(&a->nodes_high) * sizeof(*t->nodes) +
			 atomic_load(&a->handles_high) * sizeof(*t->handles) +
			 atomic_load(&a->cells_high) * sizeof(*t->cells),
		 false},
		{"takeover_bytes_max", "What it can grow to.", TOTAL_BYTES, false},
		{"takeover_unprotected", "Inodes there was no room for: lost to the next server.",
		 atomic_load(&a->unprotected), true},
		{"takeover_last_pause_microseconds",
		 "From the last server's death to the first request of the next.",
		 atomic_load(&a->last_pause_us), false},
		{"takeover_longest_pause_microseconds", "The longest of these.",
		 atomic_load(&a->max_pause_us), false},
	};

	if (!atomic_load(&a->keeper))
		return;
	for (size_t i = 0; i < ARRAY_SIZE(v); i++)
		metric_print(f, &v[i]);
}

/* What is written after this is not written before it, should we be killed here. */
static void in_order(void)
{
	atomic_signal_fence(memory_order_seq_cst);
}

/* ---- the free lists ------------------------------------------------------------------------ */

/* Cells no live node leads to. Without memory to find them, those in use so far are not reused. */
static void find_free_cells(struct takeover *t)
{
	uint64_t high = MIN(atomic_load(&t->area->cells_high), (uint64_t)TAKEOVER_CELLS);
	uint64_t nodes = MIN(atomic_load(&t->area->nodes_high), (uint64_t)TAKEOVER_NODES);
	uint8_t *used = calloc(1, high / 8 + 1);

	t->free_cell = 0;
	if (!used)
		return;
	for (uint64_t i = 0; i < nodes; i++) {
		if (!atomic_load(&t->nodes[i].ino))
			continue;
		for (uint32_t c = t->nodes[i].text; c && c <= high; c = t->cells[c - 1].next) {
			if (used[(c - 1) / 8] >> (c - 1) % 8 & 1)
				break;
			used[(c - 1) / 8] |= (uint8_t)(1 << (c - 1) % 8);
		}
	}
	for (uint64_t c = high; c > 0; c--) {
		if (used[(c - 1) / 8] >> (c - 1) % 8 & 1)
			continue;
		t->cells[c - 1].next = t->free_cell;
		t->free_cell = (uint32_t)c;
	}
	free(used);
}

/* Backwards, so that the lowest are used first and the table stays dense. */
void takeover_begin(struct takeover *t)
{
	struct takeover_area *a = t->area;
	uint64_t nodes = 0, handles = 0;

	find_free_cells(t);
	t->free_node = t->free_handle = 0;
	for (uint64_t i = MIN(atomic_load(&a->nodes_high), (uint64_t)TAKEOVER_NODES); i > 0; i--) {
		if (atomic_load(&t->nodes[i - 1].ino)) {
			nodes++;
			continue;
		}
		t->nodes[i - 1].parent = t->free_node;
		t->free_node = i;
	}
	for (uint64_t i = MIN(atomic_load(&a->handles_high), (uint64_t)TAKEOVER_HANDLES); i > 0;
	     i--) {
		if (atomic_load(&t->handles[i - 1].open)) {
			handles++;
			continue;
		}
		t->handles[i - 1].ino = t->free_handle;
		t->free_handle = i;
	}
	atomic_store(&a->nodes, nodes);
	atomic_store(&a->handles, handles);
	atomic_fetch_add(&a->servers, 1);
}

static void no_room(struct takeover *t, const char *what)
{
	atomic_fetch_add(&t->area->unprotected, 1);
	if (!t->told_full)
		log_warn("the takeover table has no room for more %s: those beyond it will not "
			 "survive a crash of the server",
			 what);
	t->told_full = true;
}

/* ---- text ---------------------------------------------------------------------------------- */

static uint32_t take_cell(struct takeover *t)
{
	uint32_t c = t->free_cell;
	uint64_t high = atomic_load(&t->area->cells_high);

	if (c) {
		t->free_cell = t->cells[c - 1].next;
	} else if (high < TAKEOVER_CELLS) {
		atomic_store(&t->area->cells_high, high + 1);
		c = (uint32_t)(high + 1);
	}
	return c;
}

static void free_text(struct takeover *t, uint32_t c)
{
	while (c) {
		uint32_t next = t->cells[c - 1].next;

		t->cells[c - 1].next = t->free_cell;
		t->free_cell = c;
		c = next;
	}
}

/* The first cell; 0 without room. From the end, as each leads to the one after it. */
static uint32_t put_text(struct takeover *t, const uint8_t *text, size_t len)
{
	const size_t per = sizeof(t->cells[0].bytes);
	uint32_t first = 0;

	for (size_t k = (len + per - 1) / per; k-- > 0;) {
		uint32_t c = take_cell(t);

		if (!c) {
			free_text(t, first);
			return 0;
		}
		memcpy(t->cells[c - 1].bytes, text + k * per, MIN(per, len - k * per));
		t->cells[c - 1].next = first;
		first = c;
	}
	return first;
}

size_t takeover_text(struct takeover *t, const struct takeover_node *n,
		     uint8_t out[TAKEOVER_TEXT_MAX])
{
	const size_t per = sizeof(t->cells[0].bytes);
	size_t len = MIN(n->text_len, (size_t)TAKEOVER_TEXT_MAX), at = 0;

	for (uint32_t c = n->text; at < len && c && c <= TAKEOVER_CELLS; c = t->cells[c - 1].next) {
		memcpy(out + at, t->cells[c - 1].bytes, MIN(per, len - at));
		at += MIN(per, len - at);
	}
	return at;
}

/* ---- nodes --------------------------------------------------------------------------------- */

uint32_t takeover_add_node(struct takeover *t, const struct node *n, const void *text,
			   size_t text_len)
{
	uint64_t slot = t->free_node, high = atomic_load(&t->area->nodes_high);
	uint32_t cell = text_len ? put_text(t, text, text_len) : 0;
	struct takeover_node *e;

	if ((text_len && !cell) || (!slot && high >= TAKEOVER_NODES)) {
		free_text(t, cell);
		no_room(t, "inodes");
		return TAKEOVER_NONE;
	}
	if (slot) {
		e = &t->nodes[slot - 1];
		t->free_node = e->parent;
	} else {
		/* Zero there still: not live, should this be the last instruction. */
		atomic_store(&t->area->nodes_high, high + 1);
		slot = high + 1;
		e = &t->nodes[slot - 1];
	}
	e->parent = n->parent ? n->parent->ino : 0;
	e->key = n->key;
	e->detail = n->detail;
	e->text = cell;
	e->text_len = (uint16_t)text_len;
	atomic_store_explicit(&e->backing, 0, memory_order_relaxed);
	atomic_store_explicit(&e->lookups, n->lookups, memory_order_relaxed);
	atomic_store_explicit(&e->ino, n->ino, memory_order_release);
	atomic_fetch_add_explicit(&t->area->nodes, 1, memory_order_relaxed);
	return (uint32_t)(slot - 1);
}

void takeover_set_lookups(struct takeover *t, uint32_t slot, uint64_t lookups)
{
	if (slot != TAKEOVER_NONE)
		atomic_store_explicit(&t->nodes[slot].lookups, lookups, memory_order_release);
}

void takeover_set_backing(struct takeover *t, uint32_t slot, int32_t backing)
{
	if (slot != TAKEOVER_NONE)
		atomic_store_explicit(&t->nodes[slot].backing, backing, memory_order_release);
}

void takeover_drop_node(struct takeover *t, uint32_t slot)
{
	if (slot == TAKEOVER_NONE)
		return;
	struct takeover_node *e = &t->nodes[slot];
	uint32_t cell = e->text;

	atomic_store_explicit(&e->ino, 0, memory_order_release);
	in_order();
	free_text(t, cell);
	e->text = 0;
	e->parent = t->free_node;
	t->free_node = (uint64_t)slot + 1;
	atomic_fetch_sub_explicit(&t->area->nodes, 1, memory_order_relaxed);
}

const struct takeover_node *takeover_next_node(struct takeover *t, uint32_t *slot)
{
	uint64_t high = MIN(atomic_load(&t->area->nodes_high), (uint64_t)TAKEOVER_NODES);

	while (*slot < high) {
		const struct takeover_node *e = &t->nodes[(*slot)++];

		if (atomic_load_explicit(&e->ino, memory_order_acquire))
			return e;
	}
	return NULL;
}

const struct takeover_node *takeover_node(struct takeover *t, uint32_t slot)
{
	return slot < TAKEOVER_NODES ? &t->nodes[slot] : NULL;
}

/* ---- handles ------------------------------------------------------------------------------- */

static uint64_t fh_of(uint64_t slot, uint32_t generation)
{
	return slot | (uint64_t)generation << 32;
}

uint64_t takeover_add_handle(struct takeover *t, uint64_t ino, uint32_t flags, uint64_t unique)
{
	uint64_t slot = t->free_handle, high = atomic_load(&t->area->handles_high);
	struct takeover_handle *e;

	if (!slot && high >= TAKEOVER_HANDLES)
		return TAKEOVER_NO_HANDLE;
	if (slot) {
		e = &t->handles[slot - 1];
		t->free_handle = e->ino;
	} else {
		atomic_store(&t->area->handles_high, high + 1);
		slot = high + 1;
		e = &t->handles[slot - 1];
	}
	/* A late second RELEASE of who had the slot before must not hit us. */
	uint32_t generation = atomic_load(&e->generation) + 1;
	if (generation == UINT32_MAX)
		generation = 1;
	atomic_store(&e->generation, generation);
	in_order();
	e->ino = ino;
	e->flags = flags;
	e->unique = unique;
	atomic_store_explicit(&e->mode, 0, memory_order_relaxed);
	atomic_store_explicit(&e->open, 1, memory_order_release);
	atomic_fetch_add_explicit(&t->area->handles, 1, memory_order_relaxed);
	return fh_of(slot - 1, generation);
}

void takeover_set_mode(struct takeover *t, uint64_t fh, unsigned mode)
{
	atomic_store_explicit(&t->handles[takeover_handle_slot(fh)].mode, mode,
			      memory_order_release);
}

void takeover_drop_handle(struct takeover *t, uint64_t fh)
{
	uint32_t slot = takeover_handle_slot(fh);
	struct takeover_handle *e = &t->handles[slot];

	atomic_store_explicit(&e->open, 0, memory_order_release);
	in_order();
	e->ino = t->free_handle;
	t->free_handle = (uint64_t)slot + 1;
	atomic_fetch_sub_explicit(&t->area->handles, 1, memory_order_relaxed);
}

const struct takeover_handle *takeover_next_handle(struct takeover *t, uint32_t *slot, uint64_t *fh)
{
	uint64_t high = MIN(atomic_load(&t->area->handles_high), (uint64_t)TAKEOVER_HANDLES);

	while (*slot < high) {
		const struct takeover_handle *e = &t->handles[*slot];
		uint32_t at = (*slot)++;

		if (atomic_load_explicit(&e->open, memory_order_acquire)) {
			*fh = fh_of(at, atomic_load(&e->generation));
			return e;
		}
	}
	return NULL;
}
