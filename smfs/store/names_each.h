/* names_each.h - every name of a store, of every kind, in batches: memory stays bounded. */
#ifndef SMFS_STORE_NAMES_EACH_H
#define SMFS_STORE_NAMES_EACH_H

#include "smfs/store/store_priv.h"

/* A negative result of `fn` ends the listing and is returned. */
typedef int (*name_fn)(const struct smfs_name *name, void *arg, struct err *err);
int names_each(struct smfs_store *s, name_fn fn, void *arg, struct err *err);

const char *kind_word(enum smfs_kind kind);

#endif
