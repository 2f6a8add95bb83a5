/*
 * pending.h - the durable record of snapshots that are being written, or whose writing failed.
 *
 * One file per name in DIR/pending (store-format.md, §12), of two slots: slot 0 says who began and
 * when, slot 1 why it failed. The writer holds a lock on the file's first byte, an open file
 * description's, so that a forked child that does the writing inherits it, and death ends it.
 *
 * INVARIANTS
 *   - A record is on disk before its writer begins; it is removed after the name is published. So
 *     what is in neither place was never begun, or was removed by somebody.
 *   - A record whose name exists is void, whatever it says: publication is one transaction of the
 *     index, and that alone decides. No record can make a name appear.
 *   - A record that says "writing" and is not locked has failed, also for a reader who cannot
 *     write that down.
 *   - Whoever changes or removes a file holds its second byte and has looked at the first.
 */
#ifndef SMFS_STORE_PENDING_H
#define SMFS_STORE_PENDING_H

#include "smfs/store/store.h"

/*
 * The snapshot `name` was published or removed: a record that nobody holds is void. 1 if there was
 * one. A failure leaves a record behind that listing finds to be void: no error of the caller's.
 */
int pending_forget(struct smfs_store *s, const char *name);

#endif
