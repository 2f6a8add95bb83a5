/* bundle.h - names as one stream: what `smfs export` and `smfs import` do when no directory is
 * meant. */
#ifndef SMFS_CMD_BUNDLE_H
#define SMFS_CMD_BUNDLE_H

#include "smfs/cmd/cmd.h"

/* "-", or a name that ends in .smfs. */
bool bundle_target(const char *arg);
/* "-", or what is there and is no directory. */
bool bundle_source(const char *arg);

/* Both return an exit status. `bases` and `names` as users spell them. */
int bundle_export(struct cmd *c, char *const *names, size_t n, char *const *bases, size_t nbases,
		  const char *to);
int bundle_import(struct cmd *c, const char *as, const char *from);

#endif
