/*
 * keeper_sock.h - the keeper's own header: the sockets between it, workers and `smfs remount`, and
 * the end of the connection.
 */
#ifndef SMFS_MOUNT_KEEPER_SOCK_H
#define SMFS_MOUNT_KEEPER_SOCK_H

#include <limits.h>

#include "smfs/base/err.h"

/* Where `smfs remount` finds the keeper of the mount with this device: an abstract name. */
int keeper_listen(unsigned minor, struct err *err);
/* Who connected, root only, and which program it wants; negative: nobody worth an answer. */
int keeper_accept(int listener, char exe[PATH_MAX]);

/*
 * End the connection of the mount on `dir` whose device has this number (keeper_abort.c): every
 * request of it fails now, also one that a server sleeps on where no signal reaches.
 */
void keeper_abort(unsigned minor, const char *dir);

#endif
