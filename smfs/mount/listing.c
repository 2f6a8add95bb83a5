#include "smfs/mount/listing.h"

#include <stdlib.h>
#include <string.h>

/* Room for one more item of `size` bytes; doubles. */
static void *more(void *p, size_t need, size_t *cap, size_t size)
{
	if (need <= *cap)
		return p;
	size_t want = *cap ? *cap * 2 : 64;
	while (want < need)
		want *= 2;
	void *q = realloc(p, want * size);
	if (q)
		*cap = want;
	return q;
}

int listing_add(struct listing *l, const char *name, uint32_t mode, struct err *err)
{
	size_t len = strlen(name) + 1;

	if (l->count >= LISTING_MAX)
		return err_set(err, E2BIG, "list a directory: more than %zu names", LISTING_MAX);
	void *items = more(l->items, l->count + 1, &l->cap, sizeof(*l->items));
	if (!items)
		return err_set(err, ENOMEM, "list a directory: out of memory");
	l->items = items;
	void *text = more(l->text, l->text_len + len, &l->text_cap, 1);
	if (!text)
		return err_set(err, ENOMEM, "list a directory: out of memory");
	l->text = text;
	memcpy(l->text + l->text_len, name, len);
	l->items[l->count++] = (struct listing_item){.name = l->text_len, .mode = mode};
	l->text_len += len;
	return 0;
}

void listing_free(struct listing *l)
{
	free(l->items);
	free(l->text);
	*l = (struct listing){0};
}
