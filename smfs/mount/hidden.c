/*
 * hidden.c - files of published snapshots that were unlinked through this mount.
 *
 * rm -r unlinks the files first and the directory last, but a snapshot only ever goes as a whole,
 * with its name. Until then the unlinked files are out of sight here, and nowhere else: if the
 * removal stops half-way, the next mount shows the snapshot complete.
 */
#include <stdlib.h>

#include "smfs/mount/fs.h"

static struct hidden *find(struct smfs_mount *m, uint64_t seq)
{
	for (size_t i = 0; i < m->nhidden; i++)
		if (m->hidden[i].seq == seq)
			return &m->hidden[i];
	return NULL;
}

bool names_is_hidden(struct smfs_mount *m, uint64_t seq, size_t index)
{
	bool is = false;

	pthread_mutex_lock(&m->names_lock);
	if (m->nhidden && index < HIDDEN_FILES) {
		const struct hidden *h = find(m, seq);

		is = h && (h->mask >> index & 1);
	}
	pthread_mutex_unlock(&m->names_lock);
	return is;
}

int names_hide(struct smfs_mount *m, uint64_t seq, size_t index, struct err *err)
{
	struct hidden *h;
	int r = 0;

	if (index >= HIDDEN_FILES)
		return err_set(err, EPERM,
			       "remove a snapshot's file: it has too many; use `smfs rm`");
	pthread_mutex_lock(&m->names_lock);
	h = find(m, seq);
	if (!h && m->nhidden < HIDDEN_MAX) {
		struct hidden *more = realloc(m->hidden, (m->nhidden + 1) * sizeof(*more));

		if (more) {
			m->hidden = more;
			h = &m->hidden[m->nhidden++];
			*h = (struct hidden){.seq = seq};
		}
	}
	if (h)
		h->mask |= (uint64_t)1 << index;
	else
		r = err_set(err, ENOSPC,
			    "remove a snapshot's file: too many removals were left unfinished; "
			    "finish them or use `smfs rm`");
	pthread_mutex_unlock(&m->names_lock);
	return r;
}

void names_unhide(struct smfs_mount *m, uint64_t seq)
{
	pthread_mutex_lock(&m->names_lock);
	struct hidden *h = find(m, seq);
	if (h)
		*h = m->hidden[--m->nhidden];
	pthread_mutex_unlock(&m->names_lock);
}
