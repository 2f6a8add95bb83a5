/*
 * listing.h - the names of a directory as they were when it was opened.
 *
 * Each open directory has its own, so that a reader sees one consistent list however slowly it
 * reads, and positions are plain indexes. One thread at a time.
 */
#ifndef SMFS_MOUNT_LISTING_H
#define SMFS_MOUNT_LISTING_H

#include <stddef.h>
#include <stdint.h>

#include "smfs/store/store.h"

struct listing {
	struct listing_item {
		size_t name; /* offset in `text` */
		uint32_t mode;
	} * items;
	size_t count, cap;
	char *text;
	size_t text_len, text_cap;
};

/* More names than any directory may have: beyond it the listing fails rather than the memory. */
#define LISTING_MAX ((size_t)4 << 20)

int listing_add(struct listing *l, const char *name, uint32_t mode, struct err *err);
static inline const char *listing_name(const struct listing *l, size_t i)
{
	return l->text + l->items[i].name;
}
void listing_free(struct listing *l);

#endif
