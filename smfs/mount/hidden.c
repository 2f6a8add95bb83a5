/*
 * hidden.c - files of published snapshots that were unlinked through this mount.
 *
 * rm -r unlinks the files first and the directory last, but a snapshot only ever goes as a whole,
 * with its name. Until then the unlinked files are out of sight here, and nowhere else: if the
 * removal stops half-way, the next mount shows the snapshot complete.
 */
#include "smfs/mount/fs.h"

/* With names_lock held. */
static struct takeover_hidden *find(struct smfs_mount *m, uint64_t seq)
{
	struct takeover_hidden *h = m->area->hidden;

	for (size_t i = 0; i < TAKEOVER_HIDDEN; i++)
		if (atomic_load(&h[i].seq) == seq)
			return &h[i];
	return NULL;
}

bool names_is_hidden(struct smfs_mount *m, uint64_t seq, size_t index)
{
	bool is = false;

	pthread_mutex_lock(&m->names_lock);
	if (m->nhidden && index < HIDDEN_FILES) {
		const struct takeover_hidden *h = find(m, seq);

		is = h && (atomic_load(&h->mask) >> index & 1);
	}
	pthread_mutex_unlock(&m->names_lock);
	return is;
}

int names_hide(struct smfs_mount *m, uint64_t seq, size_t index, struct err *err)
{
	struct takeover_hidden *h;
	int r = 0;

	if (index >= HIDDEN_FILES)
		return err_set(err, EPERM,
			       "remove a snapshot's file: it has too many; use `smfs rm`");
	pthread_mutex_lock(&m->names_lock);
	h = find(m, seq);
	if (h) {
		atomic_fetch_or(&h->mask, (uint64_t)1 << index);
	} else if ((h = find(m, 0))) {
		/* The mask first: from `seq` on it counts, also for the next server. */
		atomic_store(&h->mask, (uint64_t)1 << index);
		atomic_store(&h->seq, seq);
		m->nhidden++;
	} else {
		r = err_set(err, ENOSPC,
			    "remove a snapshot's file: too many removals were left unfinished; "
			    "finish them or use `smfs rm`");
	}
	pthread_mutex_unlock(&m->names_lock);
	return r;
}

void names_unhide(struct smfs_mount *m, uint64_t seq)
{
	pthread_mutex_lock(&m->names_lock);
	struct takeover_hidden *h = find(m, seq);
	if (h) {
		atomic_store(&h->seq, 0);
		m->nhidden--;
	}
	pthread_mutex_unlock(&m->names_lock);
}
