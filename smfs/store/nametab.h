/*
 * nametab.h - names by (kind, name) in memory: what a replay of the journal comes to, and what it
 * is compared with. Belongs to one thread; owns its records.
 */
#ifndef SMFS_STORE_NAMETAB_H
#define SMFS_STORE_NAMETAB_H

#include "smfs/store/journal.h"

struct nametab {
	struct smfs_name **v; /* open addressing; NULL = free */
	size_t n, cap;	      /* cap is a power of two or 0 */
};

/* NULL: not there. Valid until the table is changed. */
struct smfs_name *nametab_find(const struct nametab *t, enum smfs_kind kind, const char *name);
/* A copy, in place of one of that name. -ENOMEM. */
int nametab_put(struct nametab *t, const struct smfs_name *name);
bool nametab_remove(struct nametab *t, enum smfs_kind kind, const char *name);
void nametab_free(struct nametab *t);
/* Pointers to the n names by kind and name, in an array the caller frees. NULL: out of memory. */
struct smfs_name **nametab_sorted(const struct nametab *t);

/*
 * Do to the table what the record did to the names. *unknown (NULL: none) is the first name it
 * removes or renames that is not there; the rest is done all the same.
 */
int nametab_apply(struct nametab *t, const struct journal_record *rec, const char **unknown);

/* All that is kept of a name, its kind and string aside. */
bool name_same(const struct smfs_name *a, const struct smfs_name *b);

#endif
