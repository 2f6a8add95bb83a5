/*
 * unix_socket.h - connecting to a Unix stream socket by its path.
 */
#ifndef SMFS_BASE_UNIX_SOCKET_H
#define SMFS_BASE_UNIX_SOCKET_H

struct err;

/*
 * A connected descriptor. A listener that takes nobody has a full queue at last: it is waited for
 * `wait_ms` milliseconds, whatever signals come, and these then also bound each send(2) that
 * blocks; or with 0 not at all, and the descriptor does not block. EAGAIN: its queue stayed full;
 * ENOENT, ECONNREFUSED: nobody listens; ENAMETOOLONG.
 */
int unix_connect(const char *path, unsigned wait_ms, struct err *err);

#endif
