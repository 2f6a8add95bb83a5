/* stage_room.c - what snapshots being copied in may take of the disk. See stage.h. */
#include <sys/stat.h>

#include "smfs/base/num.h"
#include "smfs/mount/stage.h"

/* Written between two looks, at most: the store counts its packs for one. */
#define STEP (8 * MIB)

/* With the lock held: blocks of all that is being copied in. */
static uint64_t staged(const struct stage_area *a)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < a->count; i++)
		for (size_t k = 0; k < a->stages[i]->nfiles; k++) {
			struct stat st;

			if (fstat(a->stages[i]->files[k]->fd, &st) == 0)
				sum += (uint64_t)st.st_blocks * 512;
		}
	return sum;
}

static int ask(struct stage_area *a, uint64_t len, uint64_t *may, struct err *err)
{
	char limit[SIZE_STR_MAX], used[SIZE_STR_MAX], here[SIZE_STR_MAX];
	const char *dir = smfs_store_dir(a->mount->store);
	uint64_t have = staged(a);
	struct smfs_room room;
	int r = smfs_store_make_room(a->mount->store, len, have, &room, err);

	if (r < 0)
		return r;
	if (room.limit && room.used + have + len > room.limit)
		return err_set(err, EDQUOT,
			       "store %s is limited to %s: it has %s, and files being copied in "
			       "take %s as they are; `smfs import` needs only what they compress "
			       "to, `smfs limit` sets the limit",
			       dir, format_size(room.limit, limit), format_size(room.used, used),
			       format_size(have, here));
	if (room.free < room.reserve || room.free - room.reserve < len)
		return err_set(err, ENOSPC,
			       "the file system of store %s has %s left, of which %s are kept so "
			       "that snapshots can be removed; remove some and run `smfs gc`, or "
			       "free space",
			       dir, format_size(room.free, here), format_size(room.reserve, limit));
	*may = MIN(room.free - room.reserve, MAX(len, STEP));
	if (room.limit)
		*may = MIN(*may, room.limit - room.used - have);
	return 0;
}

int stage_take_room(struct stage_area *a, uint64_t len, struct err *err)
{
	int r = 0;

	pthread_mutex_lock(&a->lock);
	if (a->room < len)
		r = ask(a, len, &a->room, err);
	if (r == 0)
		a->room -= len;
	pthread_mutex_unlock(&a->lock);
	return r;
}
