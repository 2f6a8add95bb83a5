/*
 * keeper_sock.h - the sockets between keeper, workers and `smfs remount`: the keeper's own header.
 */
#ifndef SMFS_MOUNT_KEEPER_SOCK_H
#define SMFS_MOUNT_KEEPER_SOCK_H

#include <limits.h>

#include "smfs/base/err.h"

/* Where `smfs remount` finds the keeper of the mount with this device: an abstract name. */
int keeper_listen(unsigned minor, struct err *err);
/* Who connected, root only, and which program it wants; negative: nobody worth an answer. */
int keeper_accept(int listener, char exe[PATH_MAX]);

#endif
