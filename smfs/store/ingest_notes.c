/* What an ingest will tell the index of pages: kept until its frames are in the store. */
#include "smfs/store/ingest.h"

#include <stdlib.h>
#include <string.h>

/* 64 MiB, the pages of 16 GiB. A larger ingest tells what it has, and goes on. */
#define NOTES_MAX ((size_t)1 << 22)

static void write_notes(struct smfs_ingest *ing)
{
	page_index_add(ing->s->page_index, ing->notes, ing->nnotes);
	ing->nnotes = 0;
}

static bool room_for(struct smfs_ingest *ing, size_t n)
{
	if (ing->nnotes + n > NOTES_MAX)
		write_notes(ing);
	if (ing->nnotes + n <= ing->notes_cap)
		return true;
	size_t cap = MAX(MAX(ing->notes_cap * 2, (size_t)1024), n);
	struct page_note *v = reallocarray(ing->notes, cap, sizeof(*v));
	if (!v)
		return false;
	ing->notes = v;
	ing->notes_cap = cap;
	return true;
}

void ingest_note(struct smfs_ingest *ing, const struct page_note *notes, size_t n)
{
	pthread_mutex_lock(&ing->notes_lock);
	if (n && room_for(ing, n)) {
		memcpy(ing->notes + ing->nnotes, notes, n * sizeof(*notes));
		ing->nnotes += n;
	}
	pthread_mutex_unlock(&ing->notes_lock);
}

void ingest_notes_write(struct smfs_ingest *ing)
{
	pthread_mutex_lock(&ing->notes_lock);
	write_notes(ing);
	pthread_mutex_unlock(&ing->notes_lock);
}
